"""Whom this device believes: the trust documents it keeps, and what must hold before a release is let in.

    ROOT/trust/<version>.json   trust documents with their signatures; the highest is in force
    ROOT/trust/seen.json        what the device remembers of all it was told (`seen`)

The first document comes over the operator's authenticated connection; every later one must be led to by the
one before (`artifact/trust`). Nothing here concerns what serves already: a key that is revoked or a document
that has expired keeps new releases out, and takes none away. The way back to the slot before asks nobody.

Laws: a document is written only after all that led to it held; what is refused leaves nothing behind but the
documents that led there. Whoever writes holds the device's lock.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from slmops import digest as digests
from slmops.artifact import assignment as assignments
from slmops.artifact import manifest, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.assignment import Assignment
from slmops.artifact.manifest import Entry
from slmops.artifact.trust import RELEASE, ROLLOUT, SignedTrust, Trust
from slmops.device import machine, slots
from slmops.device import seen as memory
from slmops.device.places import Places, read_json, write, write_json
from slmops.device.seen import Seen
from slmops.errors import IntegrityError


def current(places: Places) -> SignedTrust | None:
    """Return the trust document in force; None before any was accepted. One that has rotted comes again."""
    for path in sorted(places.trust.glob("[0-9]*.json"), key=lambda path: int(path.stem), reverse=True):
        said = read_json(path)
        if said is not None:
            return trusts.from_said(said)
    return None


def in_force(places: Places) -> Trust:
    """Return the trust document in force; raise IntegrityError before any was accepted."""
    found = current(places)
    if found is None:
        raise IntegrityError(
            "this device trusts nobody yet", remedy="Run `slmops deploy`: it enrolls new devices."
        )
    return found.trust


def told(places: Places) -> dict[str, Any] | None:
    """Return {version, digest, floors} for a status: the document in force, the floors by release name."""
    found = current(places)
    if found is None:
        return None
    # Memory that has rotted says nothing here: a status is answered all the same.
    floors = (read_json(places.trust / "seen.json") or {}).get("floors", {})
    return {"version": found.trust.version, "digest": found.digest, "floors": floors}


def greet(places: Places, said: list[Any]) -> dict[str, Any]:
    """Believe an operator's trust documents; return {identity, nonce, trust}, for assignments to this device.

    `said` holds all {document, signatures} the operator has, oldest first; `trust` is the version in force.
    """
    trust = believe(places, said)
    brought = max((trusts.from_said(each).trust.version for each in said), default=0)
    if brought < trust.version:
        raise IntegrityError(
            f"this device trusts document {trust.version}, you brought {brought}",
            remedy="The keys were changed since: bring the newer trust documents (slmops trust show).",
        )
    seen, nonce = _seen(places), secrets.token_hex(16)
    _remember(places, memory.challenged(seen, nonce))
    return {"identity": seen.identity, "nonce": nonce, "trust": trust.version}


def believe(places: Places, said: list[Any]) -> Trust:
    """Go along these trust documents, oldest first, as far as each leads to the next; return the last."""
    chain = [trusts.from_said(each) for each in _list(said)]
    there = current(places)
    known = there.trust if there else None
    accepted = []
    for signed in chain if known else _from_the_first(places, chain):
        if known is not None and signed.trust.version < known.version:
            continue
        after = vouch.advance(known, signed)
        accepted += [signed] if after is not known else []
        known = after
    _accept(places, accepted)
    return known or in_force(places)


def admit(places: Places, said: dict[str, Any]) -> Entry:
    """Return the artifact that a release has for this device, once all that is signed about it holds.

    `said` holds `index` and `signatures`, the `profile`, `trust` (documents that the device may lack), and
    the `assignment` {document, signature}. Raise IntegrityError, or DoesNotFitError for another machine's.
    """
    trust = believe(places, said["trust"]) if said.get("trust") else in_force(places)
    index = encoded(said["index"])
    vouch.release(trust, index, map(encoded, _list(said["signatures"])))
    release = manifest.parse_release(index)
    entry = release.entry(str(said["profile"]))
    seen, assigned = _seen(places), _assignment(trust, said.get("assignment"))
    if assigned is not None:
        device, slot = places.read_config()["device"], digests.hexdigits(entry.blob.digest)
        memory.require_meant(seen, assigned, device, digests.of_bytes(index), slot)
    clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    memory.require_valid(trust, release, assigned, memory.moment(seen, assigned, clock))
    memory.require_next(seen, release)
    machine.refuse_other(entry)
    _remember(places, memory.admitting(seen, release, assigned))
    return entry


def renew(places: Places, slot: str, index: bytes, signatures: bytes) -> None:
    """Let a staged slot keep the index and signatures that it came with last: keys change, files do not."""
    for name, data in (("index.json", index), ("signature", signatures)):
        if (places.slot(slot) / name).read_bytes() != data:
            write(places.slot(slot) / name, data)


def recheck(places: Places, slot: str) -> None:
    """Raise IntegrityError unless whom this device trusts now vouches for the release of a staged slot."""
    folder = places.slot(slot)
    index = (folder / "index.json").read_bytes()
    vouch.release(in_force(places), index, sign.split((folder / "signature").read_bytes()))
    if f"sha256:{slot}" not in [entry.blob.digest for _, entry in manifest.parse_release(index).artifacts]:
        raise IntegrityError(f"slot {slot[:12]}: the release it came with does not list it")


def identity(places: Places) -> str:
    """Return what the device calls itself."""
    return _seen(places).identity


def floor(places: Places, name: str) -> int:
    """Return the lowest counter that this device takes of a release's name."""
    return _seen(places).floors.get(name, 0)


def raise_floors(places: Places, kept: Iterable[str]) -> None:
    """Let in no release that is older than what the device may still serve: the slots `kept`."""
    seen = _seen(places)
    try:
        after = memory.raised(seen, [slots.release(places, slot) for slot in kept])
    except (IntegrityError, OSError):
        # What has rotted has no counter; the next commit raises the floor.
        return
    if after != seen:
        _remember(places, after)


def _from_the_first(places: Places, chain: list[SignedTrust]) -> list[SignedTrust]:
    """Return the documents to go along on first contact: the newest, where nobody was trusted before.

    A device from before trust documents knows one release key; it begins with the document in which that key
    alone speaks for releases, signed by it too.
    """
    if not places.signers.exists():
        return chain[-1:]
    known = " ".join(places.signers.read_text().split()[-2:])
    for place, signed in enumerate(chain):
        release = signed.trust.of(RELEASE)
        if list(release.values()) == [known] and sign.signers(
            signed.document, signed.signatures, release, sign.TRUST
        ):
            return chain[place:]
    raise IntegrityError(
        "this device trusts another release key",
        remedy=f"Use the SLMOPS_HOME that deployed to it before. {trusts.ANEW}",
    )


def _accept(places: Places, accepted: list[SignedTrust]) -> None:
    """Write documents down, after what they say of floors: a cut between the two is made good by the next."""
    if not accepted:
        return
    seen, there = _seen(places), current(places)
    before = there.trust if there else None
    for signed in accepted:
        seen, before = memory.believing(seen, before, signed.trust), signed.trust
    _remember(places, seen)
    for signed in accepted:
        write_json(places.trust / f"{signed.trust.version}.json", trusts.said(signed))
    places.signers.unlink(missing_ok=True)


def _assignment(trust: Trust, said: Any) -> Assignment | None:
    """Return the assignment, its signature checked; None where nobody has the rollout role."""
    if not trust.roles[ROLLOUT].keys:
        return None
    if not isinstance(said, dict):
        raise IntegrityError(
            "no assignment: this device takes a release only with the word of a rollout key",
            remedy="Deploy with `slmops deploy`: it signs one for each device.",
        )
    document = encoded(said.get("document"))
    vouch.assignment(trust, document, sign.split(encoded(said.get("signature"))))
    return assignments.parse(document)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise IntegrityError(f"expected a list, got {str(value)[:60]!a}")
    return value


def _seen(places: Places) -> Seen:
    """Return what is remembered; a device that remembers nothing calls itself something from now on."""
    path = places.trust / "seen.json"
    said = read_json(path)
    if said is not None:
        return Seen(**{**said, "nonces": tuple(said["nonces"])})
    if path.exists():
        raise IntegrityError(f"{path} has rotted: what was seen is not known", remedy=trusts.ANEW)
    return Seen(identity=secrets.token_hex(16))


def _remember(places: Places, seen: Seen) -> None:
    write_json(places.trust / "seen.json", asdict(seen))


def encoded(text: Any) -> bytes:
    """Return the bytes of a text that was sent; raise IntegrityError when it is none."""
    try:
        return bytes(text.encode())
    except (AttributeError, ValueError) as error:
        raise IntegrityError(f"expected text, got {str(text)[:60]!a}") from error

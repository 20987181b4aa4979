"""Carry trust documents from one operator to another: one JSON file, with public halves of keys alone.

Laws: what is here is only ever gone on from, never replaced; what comes is believed as a device would, each
document led to by the one before; what is refused leaves nothing behind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slmops.artifact import trust as trusts
from slmops.artifact import vouch
from slmops.artifact.trust import ROOT, SignedTrust, Trust
from slmops.cli.keyring import Keyring
from slmops.errors import IntegrityError, UsageError

KIND = "slmops-trust-chain"
_WRITE = "Have it written by `slmops trust export FILE`."


@dataclass(frozen=True)
class Carried:
    """What a file brings: documents, oldest first, and the one that waits for signatures."""

    chain: tuple[SignedTrust, ...]
    waiting: SignedTrust | None

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the fingerprints of the root keys of the newest document."""
        return self.chain[-1].trust.roles[ROOT].keys


def write(ring: Keyring, file: Path) -> Trust:
    """Write the trust documents that are here to a file; return the one in force."""
    chain, waiting = ring.chain(), ring.waiting()
    said = {
        "type": KIND,
        "documents": [trusts.said(each) for each in chain],
        "pending": trusts.said(waiting) if waiting else None,
    }
    try:
        file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} could not be written: {error.strerror}", remedy="Name a file in a folder that is there."
        ) from error
    return chain[-1].trust


def read(file: Path) -> Carried:
    """Read what `write` wrote, and see that each document leads to the next."""
    try:
        said = json.loads(file.read_bytes())
        kind, pending = said["type"], said["pending"]
        chain = tuple(map(trusts.from_said, said["documents"]))
    except OSError as error:
        raise UsageError(
            f"{file} could not be read: {error.strerror}",
            remedy="Name the file that `slmops trust export FILE` wrote.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{file} holds no trust documents: {error!r}", remedy=_WRITE) from error
    if kind != KIND or not chain:
        raise IntegrityError(f"{file}: expected {KIND} with documents, got {str(kind)[:40]!r}", remedy=_WRITE)
    known: Trust | None = None
    for signed in chain:
        known = vouch.advance(known, signed)
    waiting = trusts.from_said(pending) if pending is not None else None
    if waiting is not None:
        keys = (*waiting.trust.keys, *(known.keys if known else ()))
        trusts.advance(known, waiting.trust, keys)
    return Carried(chain, waiting)


def join(ring: Keyring, carried: Carried) -> Sequence[Trust]:
    """Go on from the documents that are here with those that were brought; return the new ones.

    What waits is in force once both sides' signatures are enough; nothing is signed here. Raise
    IntegrityError when the documents are of another line.
    """
    mine = {each.trust.version: each for each in ring.kept()}
    for signed in carried.chain:
        here = mine.get(signed.trust.version)
        if here is not None and here.document != signed.document:
            raise _other(ring, f"document {signed.trust.version} here is another one")
    newest = max(mine, default=0)
    fresh = [each for each in carried.chain if each.trust.version > newest]
    # Only one that both have proves that what comes after it was led to.
    if mine and carried.chain[0].trust.version > newest:
        raise _other(ring, f"they begin with document {carried.chain[0].trust.version}, and here is {newest}")
    if not mine:
        _require_no_own(ring, carried)
    last = (fresh or [mine[newest]])[-1].trust
    waiting = _both(ring, last, carried.waiting)
    if waiting is not None and _holds(last, waiting):
        fresh, waiting = [*fresh, waiting], None
    ring.follow(fresh, waiting)
    return [each.trust for each in fresh]


def _holds(last: Trust, waiting: SignedTrust) -> bool:
    try:
        vouch.advance(last, waiting)
    except IntegrityError:
        return False
    return True


def _require_no_own(ring: Keyring, carried: Carried) -> None:
    """Refuse a home that has begun a line of its own, or whose release key is nobody in theirs."""
    if ring.waiting() is not None:
        raise _other(ring, f"a first document waits here, in {ring.pending}")
    own = ring.first_key()
    if own is not None and own not in carried.chain[-1].trust.keys:
        raise _other(ring, f"the release key {own} in {ring.keys} is none of theirs")


def _both(ring: Keyring, last: Trust, brought: SignedTrust | None) -> SignedTrust | None:
    """Return the document that waits from now on, with the signatures that it has here and there."""
    here = ring.waiting()
    both = [each for each in (here, brought) if each is not None and each.trust.version == last.version + 1]
    if len({each.document for each in both}) > 1:
        raise IntegrityError(
            f"another document {last.version + 1} waits here for signatures",
            remedy=f"Agree on one of them; to drop the one here, remove {ring.pending}.",
        )
    signatures = tuple(dict.fromkeys(each for one in both for each in one.signatures))
    return SignedTrust(both[0].document, signatures) if both else None


def _other(ring: Keyring, why: str) -> IntegrityError:
    return IntegrityError(
        f"these trust documents do not lead on from those in {ring.documents}: {why}",
        remedy="They are another fleet's; keep them in a home of their own: SLMOPS_HOME=DIR slmops trust "
        "import FILE.",
    )

"""Whose word counts: the trust document, and how one comes to stand in the place of another.

A trust document names the keys of three roles: `root` signs trust documents, `release` says what exists,
`rollout` says which device gets it. It is signed by root keys. Its next version takes its place only when as
many root keys as the old one asks for, and as many as the new one asks for, have signed it; so a device that
knows any version gets to the newest by itself, and to no other. Keys go by their fingerprints.

Laws: `parse(render(t)) == t` and `render(parse(b)) == b`; no bytes make `parse` raise anything but
IntegrityError; `advance` never leads to a lower version, skips none, and never brings a revoked key back; who
has fewer root keys than the threshold, of the old document or of the new, changes nothing; a document that
has expired leads on to the next one all the same.
Source: The Update Framework, specification 1.0, 5.3 (root rotation).
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from slmops import digest as digests
from slmops.artifact import statement
from slmops.artifact.manifest import Release, canonical
from slmops.errors import IntegrityError

KIND = "slmops-trust"
ROOT, RELEASE, ROLLOUT = "root", "release", "rollout"
ROLES = (ROOT, RELEASE, ROLLOUT)
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_KEY = re.compile(r"((?:sk-)?(?:ssh|ecdsa)-[a-z0-9-]+(?:@openssh\.com)?) ([A-Za-z0-9+/]+={0,2})")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_KEYS = ("version", "created", "expires", "keys", "roles", "revoked", "floors")
ANEW = "If the device is to trust you anew, retire it first: slmops device retire."


@dataclass(frozen=True)
class Role:
    """Keys that may speak for a role, by fingerprint, and how many of them must."""

    keys: tuple[str, ...] = ()
    threshold: int = 0
    """0, without keys, for a rollout role that nobody has: no assignment is asked for then."""


@dataclass(frozen=True)
class Trust:
    """One version of a trust document."""

    version: int
    created: str
    expires: str | None
    keys: Mapping[str, str]
    """Public keys, each `kind base64`, by fingerprint."""
    roles: Mapping[str, Role]
    revoked: tuple[str, ...] = ()
    """Fingerprints of keys that may never speak again."""
    floors: Mapping[str, int] = field(default_factory=dict)
    """By a release's name, the counter to which this document sets a device's floor, lower ones too."""

    def of(self, role: str) -> dict[str, str]:
        """Return the public keys of a role by fingerprint."""
        return {key: self.keys[key] for key in self.roles[role].keys}

    def require(self, role: str, signed: Collection[str], what: str) -> None:
        """Raise IntegrityError unless enough keys of a role are in `signed`."""
        asked = self.roles[role]
        found = len(set(asked.keys) & set(signed))
        if found < asked.threshold:
            raise IntegrityError(
                f"the signature does not hold: {what} needs {asked.threshold} of the {role} keys "
                f"{', '.join(asked.keys)} (trust document {self.version}), and {found} signed it",
                remedy="Sign it with a key that is trusted: slmops trust show; slmops trust sign N:V.",
            )

    def require_unexpired(self, now: str) -> None:
        """Raise IntegrityError when the document has had its time."""
        if self.expires is not None and self.expires < now:
            raise IntegrityError(
                f"trust document {self.version} expired at {self.expires} (it is {now})",
                remedy="Make the next one: slmops trust rotate --expires 1y.",
            )


@dataclass(frozen=True)
class SignedTrust:
    """A trust document's bytes, and the armored signatures over them."""

    document: bytes
    signatures: tuple[bytes, ...]

    @property
    def trust(self) -> Trust:
        """Return the document, read."""
        return parse(self.document)

    @property
    def digest(self) -> str:
        """Return the digest of the document."""
        return digests.of_bytes(self.document)


def said(signed: SignedTrust) -> dict[str, Any]:
    """Return a signed document as JSON says it."""
    return {
        "document": signed.document.decode(),
        "signatures": [signature.decode() for signature in signed.signatures],
    }


def from_said(value: Any) -> SignedTrust:
    """Read a signed document from what JSON says."""
    try:
        document, signatures = value["document"].encode(), value["signatures"]
        return SignedTrust(document, tuple(signature.encode() for signature in signatures))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{KIND}: expected a document and its signatures: {error!r}") from error


def key_text(public_key: str) -> str:
    """Return the `kind base64` of a public key line, its comment left out."""
    found = _KEY.match(public_key.strip())
    if found is None:
        raise IntegrityError(f"not an SSH public key: {public_key[:60]!r}")
    fingerprint(found[0])
    return found[0]


def fingerprint(key: str) -> str:
    """Return the fingerprint of a `kind base64`, as OpenSSH prints it."""
    kind, _, blob = key.partition(" ")
    try:
        raw = base64.b64decode(blob, validate=True)
    except ValueError as error:
        raise IntegrityError(f"not an SSH public key: {key[:60]!r}") from error
    if raw[4 : 4 + int.from_bytes(raw[:4], "big")] != kind.encode():
        raise IntegrityError(f"an SSH public key that is not the {kind} it says it is")
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def is_fingerprint(text: str) -> bool:
    """Say whether a text is a whole fingerprint."""
    return _FINGERPRINT.fullmatch(text) is not None


def render(trust: Trust) -> bytes:
    """Return the bytes of the document: what root keys sign."""
    roles = {
        name: {"keys": list(role.keys), "threshold": role.threshold} for name, role in trust.roles.items()
    }
    return canonical(
        {
            "type": KIND,
            "version": trust.version,
            "created": trust.created,
            "expires": trust.expires,
            "keys": dict(trust.keys),
            "roles": roles,
            "revoked": list(trust.revoked),
            "floors": dict(trust.floors),
        }
    )


def parse(data: bytes) -> Trust:
    """Read a trust document; raise IntegrityError unless it is one, in its one form, that can be kept."""
    found = statement.read(data, KIND, _KEYS)
    floors = _object(found["floors"], "floors")
    expires = found["expires"]
    trust = Trust(
        version=statement.count(found["version"], "version", 1),
        created=statement.moment(found["created"], "created"),
        expires=None if expires is None else statement.moment(expires, "expires"),
        keys={_print(key): _public(key, text) for key, text in _object(found["keys"], "keys").items()},
        roles={name: _role(name, role) for name, role in _object(found["roles"], "roles").items()},
        revoked=_prints(found["revoked"], "revoked"),
        floors={
            statement.text(name, _NAME, "floors"): statement.count(floor, name)
            for name, floor in floors.items()
        },
    )
    check(trust)
    return trust


def check(trust: Trust) -> None:
    """Raise IntegrityError unless every role can be satisfied by keys that are there and not revoked."""
    if set(trust.roles) != set(ROLES):
        raise IntegrityError(f"roles: expected {', '.join(ROLES)}, got {', '.join(sorted(trust.roles))}")
    for name, role in trust.roles.items():
        lost = sorted(set(role.keys) - set(trust.keys) | set(role.keys) & set(trust.revoked))
        if lost:
            raise IntegrityError(f"{name} names keys that are unknown or revoked: {', '.join(lost)}")
        nobody = name == ROLLOUT and role == Role()
        if not nobody and not role.keys:
            raise IntegrityError(
                f"the {name} role would have no key",
                remedy=f"Add another first: slmops trust rotate --role {name} --add new.",
            )
        if not nobody and not 1 <= role.threshold <= len(role.keys):
            raise IntegrityError(
                f"{name}: expected a threshold from 1 to its {len(role.keys)} keys, got {role.threshold}",
                remedy=f"Name more keys, or another --threshold: slmops trust rotate --role {name}.",
            )
    idle = sorted(set(trust.keys) - {key for role in trust.roles.values() for key in role.keys})
    if idle:
        raise IntegrityError(f"keys that have no role: {', '.join(idle)}")


def advance(known: Trust | None, candidate: Trust, signed: Collection[str]) -> Trust:
    """Return the document that is in force once `candidate` was seen; raise IntegrityError if it may not be.

    `signed` holds the fingerprints of the keys whose signatures over the candidate hold. Without a known
    document the candidate is believed if its own root keys signed it: that is trust on first use.
    """
    check(candidate)
    if known is not None and render(candidate) == render(known):
        return known
    if known is not None and candidate.version != known.version + 1:
        raise IntegrityError(
            f"this device trusts another document {known.version}"
            if candidate.version == known.version
            else f"expected trust document {known.version + 1}, got {candidate.version}",
            remedy=f"Use the SLMOPS_HOME that deployed to it before. {ANEW}",
        )
    what = f"trust document {candidate.version}"
    if known is not None:
        known.require(ROOT, signed, what)
        back = sorted(set(known.revoked) - set(candidate.revoked))
        if back:
            raise IntegrityError(f"{what} brings revoked keys back: {', '.join(back)}")
    candidate.require(ROOT, signed, what)
    return candidate


def _role(name: str, value: Any) -> Role:
    found = _object(value, name)
    if set(found) != {"keys", "threshold"}:
        raise IntegrityError(f"{name}: expected keys and threshold, got {', '.join(sorted(found))[:80]}")
    return Role(_prints(found["keys"], name), statement.count(found["threshold"], f"{name}.threshold"))


def _public(print_: str, text: Any) -> str:
    key = statement.text(text, _KEY, print_)
    if fingerprint(key) != print_:
        raise IntegrityError(f"the key that is called {print_} is {fingerprint(key)}")
    return key


def _print(value: Any) -> str:
    return statement.text(value, _FINGERPRINT, "fingerprint")


def _prints(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise IntegrityError(f"{what}: expected a list of fingerprints, got {str(value)[:60]!r}")
    found = tuple(_print(each) for each in value)
    if list(found) != sorted(set(found)):
        raise IntegrityError(f"{what}: expected each key once, in order")
    return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise IntegrityError(f"{what}: expected an object, got {str(value)[:60]!r}")
    return value


def require_floor(release: Release, floor: int) -> None:
    """Raise IntegrityError for a release whose counter is below a device's floor for its name."""
    if release.counter < floor:
        raise IntegrityError(
            f"{release.reference} is older than what this device may go back to: its counter is "
            f"{release.counter}, the floor is {floor}",
            remedy="Build it again as a new version, or let root lower the floor: "
            f"slmops trust rotate --floor {release.name}={release.counter}.",
        )

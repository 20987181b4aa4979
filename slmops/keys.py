"""Who may ask a daemon: keys with roles, and the file that holds them, as text.

A key is said as `slm_<id>_<secret>`. The file keeps of the secret a SHA-256 with a salt of its own, nothing
else. A slow hash would guard passwords, which people choose and which can be guessed; a secret here is 256
random bits, which nobody guesses at any speed, and a small device must check one with every request.
It knows no disk, no clock and no source of chance: it is given them.

Laws: `parse(render(keys)) == keys`; no bytes make `parse` raise anything but DocumentError; an unknown id is
compared like a known one, and as long; at no time do two keys in force have one name, or two keys one id.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from slmops.errors import DocumentError, UsageError

ROLES = ("infer", "metrics", "operator", "admin")
GRANTS = {
    "infer": frozenset({"infer"}),
    "metrics": frozenset({"metrics"}),
    "operator": frozenset({"infer", "metrics", "operator"}),
    "admin": frozenset(ROLES),
}
"""What a key of each role may do: ask the model; read the metrics; see and steer versions; everything."""
FORMAT = 1
SECRET_BYTES, SALT_BYTES, ID_BYTES = 32, 16, 5
MOST = 1000
"""Keys in one file, at most."""
IN_FORCE = "in force"
"""The state of a key that opens something."""
MARK = "slm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True)
class Key:
    """One key, as the file keeps it; `salt` and `hash` in hexadecimal digits, times in seconds since 1970."""

    id: str
    name: str
    role: str
    salt: str
    hash: str
    created: float
    expires: float | None = None
    revoked: float | None = None

    def holds(self, now: float) -> bool:
        """Say whether the key is in force."""
        return self.revoked is None and (self.expires is None or now < self.expires)


Keys = tuple[Key, ...]
_DECOY = Key(id="", name="", role="infer", salt="00" * SALT_BYTES, hash="00" * 32, created=0.0)


def issue(
    keys: Keys, name: str, role: str, *, now: float, expires: float | None, draw: Callable[[int], bytes]
) -> tuple[Keys, Key, str]:
    """Return the keys with one more, that one, and what its bearer says; this is the only time it is known.

    `draw(n)` gives n random bytes fit for secrets. Raise UsageError where the name, role or time does not do.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a key: letters, digits and . _ @ -, 64 at most")
    if role not in GRANTS:
        raise UsageError(f"{role!r} is no role: expected one of {', '.join(ROLES)}")
    if expires is not None and expires <= now:
        raise UsageError("the key would have expired before it is made")
    if any(key.name == name and key.holds(now) for key in keys):
        raise UsageError(f"there is a key {name!r} in force", remedy="Revoke it first, or take another name.")
    if len(keys) >= MOST:
        raise UsageError(f"there are {MOST} keys, which is the most one file holds")
    taken = {key.id for key in keys}
    identity = draw(ID_BYTES).hex()
    while identity in taken:
        identity = draw(ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(draw(SECRET_BYTES)).decode().rstrip("=")
    salt = draw(SALT_BYTES).hex()
    key = Key(identity, name, role, salt, _hash(salt, secret), created=now, expires=expires)
    return (*keys, key), key, f"{MARK}_{identity}_{secret}"


def revoke(keys: Keys, which: str, now: float) -> tuple[Keys, Key]:
    """Return the keys with one revoked, and that one; `which` is its id, or the name of one in force.

    A key revoked before stays as it is. Raise UsageError where there is none.
    """
    found = [key for key in keys if key.id == which or (key.name == which and key.holds(now))]
    if not found:
        raise UsageError(f"there is no key {which!r} in force", remedy="List the keys that there are.")
    old = found[0]
    new = old if old.revoked is not None else replace(old, revoked=now)
    return tuple(new if key is old else key for key in keys), new


def find(keys: Sequence[Key], said: str, now: float) -> Key | None:
    """Return the key that a bearer says, if it is in force; None for all else, after as long a time."""
    mark, _, rest = said.partition("_")
    identity, _, secret = rest.partition("_")
    candidates = [key for key in keys if key.id == identity] or [_DECOY]
    found = [key for key in candidates if hmac.compare_digest(key.hash, _hash(key.salt, secret))]
    return found[0] if mark == MARK and found and found[0].holds(now) else None


def shown(keys: Sequence[Key], now: float) -> list[dict[str, Any]]:
    """Return what may be told of the keys: {id, name, role, created, expires, revoked, state}; no hashes."""
    return [{**_public(key), "state": _state(key, now)} for key in keys]


def render(keys: Sequence[Key]) -> bytes:
    """Return the keys as the text of their file."""
    whole = {"format": FORMAT, "keys": [asdict(key) for key in keys]}
    return json.dumps(whole, indent=1).encode() + b"\n"


def parse(text: bytes) -> Keys:
    """Read the text of a file of keys; raise DocumentError where it is none."""
    try:
        keys = _keys(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DocumentError(
            f"not a file of keys: {error}", remedy="Restore the file, or remove it and create keys anew."
        ) from error
    if len(keys) > MOST or len({key.id for key in keys}) < len(keys):
        raise DocumentError(f"not a file of keys: more than {MOST}, or two with one id")
    return keys


def _keys(said: dict[str, Any]) -> Keys:
    if said["format"] != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {str(said['format'])[:20]}")
    return tuple(_key(each) for each in said["keys"])


def _key(said: dict[str, Any]) -> Key:
    if set(said) != {field.name for field in fields(Key)}:
        raise ValueError(f"a key says {sorted(map(str, said))}")
    key = Key(**said)
    if not _NAME.fullmatch(key.name) or key.role not in GRANTS:
        raise ValueError(f"a key with the name {key.name!r} and the role {key.role!r}")
    if not all(map(_HEX.fullmatch, (key.id, key.salt, key.hash))):
        raise ValueError("a key whose id, salt or hash is not in hexadecimal digits")
    times = [said["created"], *(said[name] for name in ("expires", "revoked") if said[name] is not None)]
    if not all(isinstance(time, (int, float)) and not isinstance(time, bool) for time in times):
        raise ValueError("a key whose times are no numbers")
    return key


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode("utf-8", "replace")).hexdigest()


def _public(key: Key) -> dict[str, Any]:
    return {name: value for name, value in asdict(key).items() if name not in {"salt", "hash"}}


def _state(key: Key, now: float) -> str:
    if key.revoked is not None:
        return "revoked"
    return IN_FORCE if key.holds(now) else "expired"

"""What the next trust document says: the first one, and each one that follows from the one before.

Nothing here is signed yet. Laws: an amendment is the next version; a key that is revoked leaves every role;
floors speak for one document alone and are not repeated; what comes out can be kept, or IntegrityError says
why.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from slmops.artifact import trust as trusts
from slmops.artifact.trust import ROLES, ROLLOUT, Role, Trust
from slmops.errors import IntegrityError


def first(
    created: str, expires: str | None, keys: Mapping[str, Iterable[str]], asked: Mapping[str, int]
) -> Trust:
    """Return the first document: `keys` has public keys by role, `asked` the thresholds that are not 1."""
    prints = {role: _by_print(keys.get(role, ())) for role in ROLES}
    roles = {
        role: Role(tuple(sorted(found)), asked.get(role, 1) if found else 0) for role, found in prints.items()
    }
    public = {print_: key for found in prints.values() for print_, key in found.items()}
    return _checked(Trust(1, created, expires, public, roles))


def following(
    trust: Trust, created: str, expires: str | None, floors: Mapping[str, int] | None = None
) -> Trust:
    """Return the version after `trust`, the same keys in it."""
    return replace(
        trust, version=trust.version + 1, created=created, expires=expires, floors=dict(floors or {})
    )


def with_role(
    trust: Trust, role: str, add: Iterable[str] = (), remove: Iterable[str] = (), threshold: int | None = None
) -> Trust:
    """Return `trust` with public keys added to a role and fingerprints taken from it."""
    added, before = _by_print(add), trust.roles[role]
    left = set(before.keys) - set(remove)
    strange = sorted(set(remove) - set(before.keys))
    if strange:
        raise IntegrityError(f"{role} has no key {', '.join(strange)}; it has {', '.join(before.keys)}")
    keys = tuple(sorted(left | set(added)))
    asked = threshold if threshold is not None else before.threshold or 1
    if role == ROLLOUT and asked > 1:
        raise IntegrityError(
            f"rollout: an assignment is signed by one key, and {asked} were to be asked for",
            remedy="Ask for more --threshold of --role release: those keys say what may be rolled out.",
        )
    roles = {**trust.roles, role: Role(keys, asked if keys else 0)}
    return _checked(_used(replace(trust, keys={**trust.keys, **added}, roles=roles)))


def without(trust: Trust, revoked: str) -> Trust:
    """Return `trust` with a key revoked: no role has it, and none ever will again."""
    roles = {
        name: replace(role, keys=tuple(key for key in role.keys if key != revoked))
        for name, role in trust.roles.items()
    }
    after = replace(trust, roles=roles, revoked=tuple(sorted({*trust.revoked, revoked})))
    return _checked(_used(after))


def _by_print(keys: Iterable[str]) -> dict[str, str]:
    public = [trusts.key_text(key) for key in keys]
    return {trusts.fingerprint(key): key for key in public}


def _used(trust: Trust) -> Trust:
    """Leave out public keys that no role has any more."""
    used = {key for role in trust.roles.values() for key in role.keys}
    return replace(trust, keys={print_: key for print_, key in trust.keys.items() if print_ in used})


def _checked(trust: Trust) -> Trust:
    trusts.check(trust)
    return trust

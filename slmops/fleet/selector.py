"""A phrase that picks devices: `site=berlin,!canary`.

Terms are joined by commas and all must hold. A term is `key=value`, `key` (a device's name, one of
its groups, or a label it has), or the opposite of one: `key!=value`, `!key=value`, `!key`. In a term one of
several values, or of several names, is enough: `site=berlin|lyon`, `edge-1|edge-2`.

Laws: the empty phrase picks all; a term and its negation split the fleet; order is kept.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from slmops.errors import UsageError

if TYPE_CHECKING:
    from slmops.fleet.inventory import Device

NAMED = 8
"""Devices that an error names."""


def select(devices: "Iterable[Device]", phrase: str) -> "list[Device]":
    """Return the devices the phrase picks; raise UsageError when it picks none or cannot be read."""
    there = list(devices)
    picked = pick(there, phrase)
    if not picked:
        names = ", ".join(device.name for device in there[:NAMED]) + (", ..." if there[NAMED:] else "")
        raise UsageError(
            f"selector {phrase!r} picks none of {len(there)} devices ({names})",
            remedy=_meant(there, _terms(phrase)),
        )
    return picked


def pick(devices: "Iterable[Device]", phrase: str) -> "list[Device]":
    """Return the devices the phrase picks, be it none; raise UsageError when it cannot be read."""
    terms = _terms(phrase)
    for term in terms:
        _require_readable(phrase, term.lstrip("! "))
    return [device for device in devices if all(_holds(device, term) for term in terms)]


def _terms(phrase: str) -> list[str]:
    return [term.strip() for term in phrase.split(",")] if phrase.strip() else []


def _require_readable(phrase: str, term: str) -> None:
    """Raise UsageError for a term, with no ! before it, that says nothing or is ambiguous."""
    key, compares, values = term.partition("=")
    several = (values if compares else key).split("|")
    if not key.rstrip("! ") or (len(several) > 1 and not all(map(str.strip, several))):
        raise UsageError(f"selector {phrase!r}: a term is empty, or names no label")
    if (compares and "|" in key) or (
        len(several) > 1 and any("!" in each or "=" in each for each in several)
    ):
        raise UsageError(
            f"selector {phrase!r}: | stands between values of one label, or between names",
            remedy="Write site=berlin|lyon, or edge-1|edge-2; a ! before either turns all of it round.",
        )


def _meant(devices: "list[Device]", terms: list[str]) -> str:
    """Return the way on of a phrase that picked nobody: a comma between names may have meant `or`."""
    named = len(terms) > 1 and not any(mark in term for term in terms for mark in "!=|")
    if named and all(any(_holds(device, term) for device in devices) for term in terms):
        return f"A comma means `and`. To pick all of these: -l '{'|'.join(terms)}'"
    return "A term is key=value, or the name of a device, group or label; ! turns it round, | means `or`."


def _holds(device: "Device", term: str) -> bool:
    if term.startswith("!"):
        return not _holds(device, term[1:].strip())
    if "!=" in term:
        return not _holds(device, term.replace("!=", "=", 1))
    if "=" in term:
        key, _, values = term.partition("=")
        return device.labels.get(key.strip()) in [value.strip() for value in values.split("|")]
    known = {device.name, *device.groups, *device.labels}
    return any(word.strip() in known for word in term.split("|"))

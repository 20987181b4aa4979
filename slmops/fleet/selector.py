"""A phrase that picks devices: `site=berlin,!canary`.

Terms are joined by commas and all must hold. A term is `key=value`, `key` (a device's name, one of
its groups, or a label it has), or the opposite of one: `key!=value`, `!key=value`, `!key`.

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
            remedy="A term is key=value, or the name of a device, group or label; ! turns it round.",
        )
    return picked


def pick(devices: "Iterable[Device]", phrase: str) -> "list[Device]":
    """Return the devices the phrase picks, be it none; raise UsageError when it cannot be read."""
    terms = [term.strip() for term in phrase.split(",")] if phrase.strip() else []
    if not all(term.lstrip("! ").partition("=")[0].rstrip("! ") for term in terms):
        raise UsageError(f"selector {phrase!r}: a term is empty, or names no label")
    return [device for device in devices if all(_holds(device, term) for term in terms)]


def _holds(device: "Device", term: str) -> bool:
    if term.startswith("!"):
        return not _holds(device, term[1:].strip())
    if "!=" in term:
        return not _holds(device, term.replace("!=", "=", 1))
    if "=" in term:
        key, _, value = term.partition("=")
        return device.labels.get(key.strip()) == value.strip()
    return term == device.name or term in device.groups or term in device.labels

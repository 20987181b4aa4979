"""Borrow from the slots that are here: a file that one of them holds need not come again."""

from __future__ import annotations

import os
from pathlib import Path

from slmops.artifact.manifest import Blob
from slmops.device import incoming, slots
from slmops.device.places import Places


def find(places: Places, blob: Blob) -> Path | None:
    """Return a file of any slot that is `blob`, read to its end; None where there is none that holds."""
    for slot in slots.names(places):
        for name, other in slots.holding(places, slot):
            path = places.files(slot) / name
            if other.digest == blob.digest and incoming.holds(path, blob):
                return path
    return None


def borrow(places: Places, place: Path, blob: Blob) -> bool:
    """Put a file of another slot where it is to come in, without a copy; say whether there was one."""
    held = find(places, blob)
    if held is None:
        return False
    place.parent.mkdir(exist_ok=True)
    os.link(str(held), str(place))
    return incoming.holds(place, blob)

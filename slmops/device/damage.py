"""What of this device's slots was found rotten, remembered until it is whole again and serves as such.

ROOT/rotten.json: by slot, what is wrong with it, and the digests of its files that are not what they were.
It does not know how that is found out. Law: what is remembered here counts as not here for whoever asks
what the device holds; so the next deploy sends it again.
"""

from __future__ import annotations

from typing import Any

from slmops.device.places import Places, read_json, write_json


def known(places: Places) -> dict[str, dict[str, Any]]:
    """Return what is remembered: {slot: {wrong, files: [digest]}}."""
    return read_json(places.rotten) or {}


def remember(places: Places, slot: str, wrong: str, files: list[str]) -> None:
    """Remember what is wrong with a slot, and which of its files have rotted."""
    told = {**known(places), slot: {"wrong": wrong, "files": files}}
    if told != known(places):
        write_json(places.rotten, told)


def forget(places: Places, slot: str) -> None:
    """Forget it: the slot is gone, or is whole and serves as such."""
    told = known(places)
    if told.pop(slot, None) is not None:
        write_json(places.rotten, told)

"""Make a slot of what was received; it appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slmops.device import damage, incoming, journal, slots
from slmops.device.places import Places, sync_folder
from slmops.errors import IntegrityError


def stage(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Make a slot of what was received; `said` holds `slot`, and so does the answer."""
    with journal.locked(places):
        make_slot(places, said["slot"])
    return {"slot": said["slot"]}


def make_slot(places: Places, slot: str) -> None:
    """Make a slot of what was received, once more to no effect; the caller holds the device's lock."""
    folder = incoming.folder(places, slot)
    if is_whole(places, slot):
        if folder.exists():
            slots.remove(folder)
        _note_whole(places, slot)
        return
    names = _names(places, slot, folder)
    fresh = places.slots / f".{slot}"
    if fresh.exists():
        slots.remove(fresh)
    (fresh / "files").mkdir(parents=True)
    for name in names:
        os.link(str(folder / name), str(fresh / "files" / name))
        (fresh / "files" / name).chmod(0o444)
    for name in ("index.json", "signature", "manifest.json"):
        os.link(str(folder / f".{name}"), str(fresh / name))
    sync_folder(fresh / "files")
    sync_folder(fresh)
    _put_in_place(places, slot, fresh)
    slots.remove(folder)
    _note_whole(places, slot)


def _put_in_place(places: Places, slot: str, fresh: Path) -> None:
    """Give a slot its name; a rotten one is removed after, that no power cut finds neither for long."""
    rotten = places.slots / f".gone-{slot}"
    if rotten.exists():
        slots.remove(rotten)
    if places.slot(slot).exists():
        places.slot(slot).rename(rotten)
    fresh.rename(places.slot(slot))
    sync_folder(places.slots)
    if rotten.exists():
        slots.remove(rotten)


def _note_whole(places: Places, slot: str) -> None:
    """Forget that a slot had rotted; of one that serves `activate` does, for its daemon has the old files."""
    if slot != journal.standing(places).slot:
        damage.forget(places, slot)


def _names(places: Places, slot: str, folder: Path) -> list[str]:
    """Return the names of the files that came, every one whole."""
    files = incoming.artifact(places, slot).files
    for name, blob in files:
        if not incoming.holds(folder / name, blob):
            (folder / name).unlink(missing_ok=True)
            raise IntegrityError(
                f"{name} is not here whole", remedy="Deploy again: it sends what is missing."
            )
    return [name for name, _ in files]


def is_whole(places: Places, slot: str) -> bool:
    """Say whether a slot is there, every byte of it; one that has rotted is made anew."""
    try:
        slots.verify(places, slot)
    except (IntegrityError, OSError):
        return False
    return True

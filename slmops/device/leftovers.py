"""What a process that was cut off may leave behind: files and folders that never got their names.

Law: nothing that a living process is still writing is torn; whoever asks holds the device's lock, and files
outside that lock are torn only after a while.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from slmops.device import slots
from slmops.device.places import Places
from slmops.errors import IntegrityError

WHILE = 60.0
"""Seconds after which a file that is still without its name has nobody who writes it."""


def torn(places: Places) -> list[Path]:
    """Return what never got its name, and releases on their way in that are slots already."""
    found = [*slots.torn_slots(places), *places.runtimes.glob(".*")]
    found += [
        path
        for path in (places.root / f".{name}.new" for name in ("current", "previous", "agent"))
        if path.is_symlink()
    ]
    found += [path for folder in (places.root, places.trust) for path in folder.glob(".new-*")]
    unlocked = [*places.run.glob(".new-*"), *places.run.glob("tmp*"), *(places.root / "agent").glob(".*.new")]
    found += [path for path in unlocked if _is_forgotten(path)]
    found += [folder for folder in places.incoming.glob("*") if _has_become_a_slot(places, folder.name)]
    return sorted(set(found))


def tidy(places: Places) -> None:
    """Remove it all."""
    for path in torn(places):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there still."""
    if path.is_dir() and not path.is_symlink():
        slots.remove(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _has_become_a_slot(places: Places, name: str) -> bool:
    """Say whether what was arriving is a slot, and a whole one: a rotten slot may arrive anew."""
    if not places.slot(name).is_dir():
        return False
    try:
        slots.verify(places, name)
    except (IntegrityError, OSError):
        return False
    return True


def _is_forgotten(path: Path) -> bool:
    """Say whether something has been left alone for a while."""
    with suppress(FileNotFoundError):
        return abs(time.time() - path.lstat().st_mtime) > WHILE
    return False

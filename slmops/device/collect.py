"""Free what a device does not need: what may go, and how many bytes that gives back.

Law: what serves, what the device may return to, what was staged and not yet tried, and what somebody is
sending now never go.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.device import journal, leftovers, slots
from slmops.device.places import Places, read_json


def gc(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Remove what the device does not need; with `dry_run`, only say what that is.

    Returns {gone: [{what, path}], bytes, free}: paths relative to the agent's directory, `bytes` they gave
    or would give back, `free` bytes of the disk afterwards.
    """
    with journal.locked(places):
        found = [(what, path) for what, path in _dispensable(places) if path.exists() or path.is_symlink()]
        freed = _bytes([path for _, path in found])
        if not said.get("dry_run"):
            for what, path in found:
                slots.drop(places, path.name) if what == "slot" else leftovers.remove(path)
            with suppress(OSError):
                journal.set_aside(places)
    disk = os.statvfs(str(places.root))
    gone = [{"what": what, "path": str(path.relative_to(places.root))} for what, path in found]
    return {"gone": gone, "bytes": freed, "free": disk.f_bavail * disk.f_frsize}


def _dispensable(places: Places) -> Iterator[tuple[str, Path]]:
    """Yield what may go, by what it is."""
    yield from _unneeded(places)
    for path in leftovers.torn(places):
        yield "torn", path
    for path in slots.abandoned(places):
        yield "abandoned", path
    supervisor = (read_json(places.supervisor) or {}).get("agent", "")
    used = {places.agent_link.resolve().name, Path(supervisor).name}
    for path in sorted((places.root / "agent").glob("[!.]*.pyz")):
        if path.name not in used:
            yield "agent", path
    for path in sorted(places.log.parent.glob("*.old.log")):
        yield "log", path


def _unneeded(places: Places) -> Iterator[tuple[str, Path]]:
    """Yield the slots, and the runtimes unpacked from them, that the device does not return to."""
    tried = {record.get("slot") for record in journal.read(places.journal)}
    keep = slots.needed(journal.standing(places))
    for name in slots.names(places):
        if name not in keep and (name in tried or slots.is_old(places.slot(name))):
            yield "slot", places.slot(name)
    for path in sorted(places.runtimes.glob("[!.]*")):
        if path.name not in keep:
            yield "runtime", path


def _bytes(paths: Iterable[Path]) -> int:
    """Return what removing these gives back: a file that has another name elsewhere gives nothing."""
    seen = {}
    names: Counter[tuple[int, int]] = Counter()
    for path in paths:
        for file in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
            stat = file.lstat()
            if not file.is_dir() or file.is_symlink():
                names[stat.st_dev, stat.st_ino] += 1
                seen[stat.st_dev, stat.st_ino] = stat
    return sum(stat.st_blocks * 512 for key, stat in seen.items() if names[key] >= stat.st_nlink)

"""Content-addressed slots, and the two links that say which one serves.

A slot is named by the hex digest of its artifact's manifest and never changes once it is there.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from contextlib import suppress
from pathlib import Path

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import manifest
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact, Blob, Release
from slmops.device import boots, damage
from slmops.device.places import Places, read_json, sync_folder, write_json
from slmops.device.trial import Standing
from slmops.errors import IntegrityError

ABANDONED = 7 * 86400.0
"""Seconds after which a release that never arrived whole is given up."""


def point(places: Places, standing: Standing) -> None:
    """Make the links say what the journal says: each switched by one atomic rename."""
    _link(places.previous, standing.previous)
    _link(places.current, standing.slot)
    sync_folder(places.root)


def artifact(places: Places, slot: str) -> Artifact:
    """Return the manifest of a slot, verified against the slot's own name."""
    data = (places.slot(slot) / "manifest.json").read_bytes()
    if digests.hexdigits(digests.of_bytes(data)) != slot:
        raise IntegrityError(f"slot {slot[:12]}: its manifest has rotted")
    return manifest.parse_artifact(data)


def release(places: Places, slot: str) -> Release:
    """Return the release a slot came with."""
    return manifest.parse_release((places.slot(slot) / "index.json").read_bytes())


def description(places: Places, slot: str) -> Description:
    """Return what the artifact in a slot says of itself."""
    return descriptions.parse((places.files(slot) / descriptions.FILE_NAME).read_bytes())


def names(places: Places) -> list[str]:
    """Return the slots there are."""
    if not places.slots.is_dir():
        return []
    return sorted(path.name for path in places.slots.iterdir() if not path.name.startswith("."))


def held(places: Places) -> list[str]:
    """Return the digests of the files in all slots, but those that were found rotten."""
    rotten = damage.known(places)
    return sorted(
        {
            blob.digest
            for slot in names(places)
            for _, blob in holding(places, slot)
            if blob.digest not in rotten.get(slot, {}).get("files", ())
        }
    )


def holding(places: Places, slot: str) -> tuple[tuple[str, Blob], ...]:
    """Return the files that a slot says it holds; one that has rotted holds nothing."""
    try:
        return artifact(places, slot).files
    except (IntegrityError, OSError):
        return ()


def verify(places: Places, slot: str) -> None:
    """Raise IntegrityError unless every file of a slot is what its manifest says."""
    for name, blob in artifact(places, slot).files:
        path = places.files(slot) / name
        if not path.is_file() or digests.of_file(path) != blob.digest:
            raise IntegrityError(f"slot {slot[:12]}: {name} has rotted")


def note_rotten(places: Places, slot: str, wrong: str) -> None:
    """Remember that a slot has rotted, and which of its files have; all of them are read."""
    files = [blob.digest for name, blob in holding(places, slot) if not _is(places.files(slot) / name, blob)]
    damage.remember(places, slot, wrong, files)


def _is(path: Path, blob: Blob) -> bool:
    """Say whether a file can be read and is what it must be."""
    try:
        return digests.of_file(path) == blob.digest
    except OSError:
        return False


def is_whole(places: Places, slot: str) -> bool:
    """Say whether a slot is what its name says, reading it once in a boot of the machine."""
    boot = boots.identity()
    known = read_json(places.whole) or {}
    if known.get("boot") == boot and slot in known.get("slots", []):
        return places.slot(slot).is_dir()
    try:
        verify(places, slot)
    except (IntegrityError, OSError):
        return False
    note_whole(places, slot)
    return True


def note_whole(places: Places, slot: str) -> None:
    """Remember that a slot was read in this boot, and that it is what its name says."""
    boot = boots.identity()
    known = read_json(places.whole) or {}
    slots = known.get("slots", []) if known.get("boot") == boot else []
    # Whoever does not remember reads again.
    with suppress(OSError):
        write_json(places.whole, {"boot": boot, "slots": sorted({*slots, slot})})


def forget_whole(places: Places) -> None:
    """Forget which slots were read in this boot: they will be read again."""
    with suppress(FileNotFoundError):
        places.whole.unlink()


def needed(standing: Standing) -> set[str]:
    """Return the slots, of models and of runtimes, that a device serves or may return to."""
    ways = [standing, *([standing.before] if standing.before else [])]
    found = {slot for way in ways for slot in (way.slot, way.previous)}
    return {slot for slot in found if slot} | runtimes_needed(standing)


def runtimes_needed(standing: Standing) -> set[str]:
    """Return the slots of the runtimes that those slots run from."""
    ways = [standing, *([standing.before] if standing.before else [])]
    settings = [each for way in ways for each in (way.settings, way.previous_settings, way.earlier)]
    found = {(each or {}).get("runtime_slot") for each in settings}
    return {slot for slot in found if slot}


def collect(places: Places, standing: Standing) -> list[str]:
    """Remove slots the device cannot return to, and what never became a slot; return their names."""
    gone = [name for name in names(places) if name not in needed(standing)]
    for name in gone:
        drop(places, name)
    for torn in [*torn_slots(places), *abandoned(places)]:
        remove(torn)
    return gone


def torn_slots(places: Places) -> list[Path]:
    """Return what never became a slot, or is one no more."""
    return sorted(places.slots.glob(".*"))


def abandoned(places: Places) -> list[Path]:
    """Return the releases that began to arrive long ago, and that nobody is sending now."""
    old = [path for path in places.incoming.iterdir() if is_old(path)]
    # By the clock, which may have jumped: what somebody is sending is not old.
    return [folder for folder in old if not any(_is_held(part) for part in folder.glob("*.part"))]


def is_old(folder: Path) -> bool:
    """Say whether a folder has been left alone for long."""
    return time.time() - folder.stat().st_mtime > ABANDONED


def drop(places: Places, slot: str) -> None:
    """Remove a slot; it is gone whole before any of its files is."""
    leaving = places.slots / f".gone-{slot}"
    if leaving.exists():
        remove(leaving)
    places.slot(slot).rename(leaving)
    sync_folder(places.slots)
    remove(leaving)
    damage.forget(places, slot)


def remove(folder: Path) -> None:
    """Remove a folder whose files and folders may be read-only."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(str(folder))


def _is_held(part: Path) -> bool:
    """Say whether somebody is writing a file."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _link(link: Path, slot: str | None) -> None:
    if slot is None:
        if link.is_symlink():
            link.unlink()
        return
    target = f"slots/{slot}"
    if link.is_symlink() and str(link.readlink()) == target:
        return
    fresh = link.with_name(f".{link.name}.new")
    if fresh.is_symlink():
        fresh.unlink()
    fresh.symlink_to(target)
    fresh.replace(link)

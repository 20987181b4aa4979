"""Content-addressed slots, and the two links that say which one serves.

A slot is named by the hex digest of its artifact's manifest and never changes once it is there.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import manifest
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact, Blob, Release
from slmops.device.places import Places, sync_folder
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
    return sorted(path.name for path in places.slots.iterdir() if not path.name.startswith("."))


def held(places: Places) -> list[str]:
    """Return the digests of the files in all slots; a slot that has rotted holds nothing."""
    return sorted({blob.digest for slot in names(places) for _, blob in holding(places, slot)})


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


def collect(places: Places, standing: Standing) -> list[str]:
    """Remove slots the device cannot return to, and what never became a slot; return their names."""
    before = standing.before
    keep = {standing.slot, standing.previous, before and before.slot, before and before.previous}
    gone = [name for name in names(places) if name not in keep]
    for name in gone:
        remove(places.slot(name))
    stale = [path for path in places.incoming.iterdir() if time.time() - path.stat().st_mtime > ABANDONED]
    for torn in [*places.slots.glob(".*"), *stale]:
        remove(torn)
    return gone


def remove(folder: Path) -> None:
    """Remove a folder whose files and folders may be read-only."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(str(folder))


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

"""Prepare for a release: verify it, and say which of its files are not here.

Nothing is written before the signature holds, the artifact is one that this machine can run, and there is
room for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import Artifact
from slmops.device import borrow, disk, incoming, journal, patch, shun, slots, trust
from slmops.device.places import Places, write
from slmops.device.stage import is_whole
from slmops.errors import DoesNotFitError, IntegrityError
from slmops.wire import DISK_RESERVE

INODE_RESERVE = 64
"""Files and folders that a device keeps free for its system, and that staging takes beside the files."""


def prepare(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Verify a release and say which of its files this device lacks.

    `said` holds what `trust.admit` asks for and the artifact's `manifest` as text. Returns
    {slot, staged, missing: [{name, size, offset}], can: {delta}}: offset is how much of the file is here.
    """
    places.read_config()
    with journal.locked(places):
        return make_ready(places, said)


def make_ready(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Do what `prepare` says; the caller holds the device's lock."""
    entry = trust.admit(places, said)
    index, signature = said["index"].encode(), "".join(said["signatures"]).encode()
    described = trust.encoded(said["manifest"])
    if digests.of_bytes(described) != entry.blob.digest:
        raise IntegrityError("the artifact's manifest is not the one its release lists")
    slot = digests.hexdigits(entry.blob.digest)
    shun.require_forgiven(places, slot, said)
    if is_whole(places, slot):
        trust.renew(places, slot, index, signature)
        return {"slot": slot, "staged": True, "missing": [], "can": {"delta": False}}
    folder = places.incoming / slot
    missing = _missing(places, folder, manifest.parse_artifact(described))
    _refuse_full_disk(places, sum(each["size"] - each["offset"] for each in missing), len(missing))
    folder.mkdir(exist_ok=True)
    write(folder / ".index.json", index)
    write(folder / ".signature", signature)
    write(folder / ".manifest.json", described)
    # Without a slot there is nothing that a delta could begin with.
    can = {"delta": bool(missing and slots.names(places)) and patch.able(places)}
    return {"slot": slot, "staged": False, "missing": missing, "can": can}


def _missing(places: Places, folder: Path, built: Artifact) -> list[dict[str, Any]]:
    """Return the files that must still come; those of other slots are taken from there by a link."""
    missing = []
    for name, blob in built.files:
        if (folder / name).is_file() or borrow.borrow(places, folder / name, blob):
            continue
        part = incoming.part_of(folder / name)
        offset = min(part.stat().st_size, blob.size) if part.exists() else 0
        missing.append({"name": name, "size": blob.size, "offset": offset})
    return missing


def _refuse_full_disk(places: Places, needed: int, files: int) -> None:
    if needed + DISK_RESERVE > disk.free(places):
        raise disk.full(places, "disk", needed)
    found = os.statvfs(str(places.root))
    # A file system that makes inodes as it needs them counts none.
    if found.f_files and files + INODE_RESERVE > found.f_favail:
        raise DoesNotFitError(f"disk: {found.f_favail} inodes free, {files + INODE_RESERVE} needed")

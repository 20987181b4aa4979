"""Take a release in: verify, receive, and make a slot of it.

Nothing is written before the signature holds and the artifact is one this machine can run;
nothing reaches its final place before every digest holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from slmops import digest as digests
from slmops.artifact import manifest, sign
from slmops.artifact.manifest import Artifact, Blob
from slmops.device import slots
from slmops.device.places import Places, sync_folder, write
from slmops.errors import DeviceError, DoesNotFitError, IntegrityError
from slmops.wire import DISK_RESERVE


def prepare(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Verify a release and say which of its files this device lacks.

    `said` holds `index`, `signature` and `manifest` as text and the `profile` this device is. Returns
    {slot, staged, missing: [{name, size, offset}]}: offset is how much of the file is here already.
    """
    index, signature = said["index"].encode(), said["signature"].encode()
    sign.verify(index, signature, places.signers.read_text())
    entry = manifest.parse_release(index).entry(said["profile"])
    described = said["manifest"].encode()
    if digests.of_bytes(described) != entry.blob.digest:
        raise IntegrityError("the artifact's manifest is not the one its release lists")
    _refuse_other_machine(entry.arch)
    slot = digests.hexdigits(entry.blob.digest)
    if _is_whole(places, slot):
        return {"slot": slot, "staged": True, "missing": []}
    built = manifest.parse_artifact(described)
    folder = places.incoming / slot
    missing = _missing(places, folder, built)
    _refuse_full_disk(places, sum(each["size"] - each["offset"] for each in missing))
    folder.mkdir(exist_ok=True)
    write(folder / ".index.json", index)
    write(folder / ".signature", signature)
    write(folder / ".manifest.json", described)
    return {"slot": slot, "staged": False, "missing": missing}


def receive(
    places: Places, said: dict[str, Any], source: BinaryIO, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Read the rest of one file from `source`; keep what came if the link breaks, so that it can go on.

    `said` holds `slot`, `name` and `offset`, where `source` begins. The file takes its name only when its
    digest holds. `progress` is told the bytes that are here.
    """
    name, offset = said["name"], said["offset"]
    folder = places.incoming / digests.hexdigits("sha256:" + said["slot"])
    built = manifest.parse_artifact((folder / ".manifest.json").read_bytes())
    blob = dict(built.files)[name]
    part = folder / (name + ".part")
    state = hashlib.sha256()
    with part.open("ab+") as file:
        _sole_writer(file, name)
        file.truncate(offset)
        file.seek(0)
        for piece in digests.pieces(file):
            state.update(piece)
        here = file.tell()
        while here < blob.size:
            piece = source.read(min(digests.PIECE, blob.size - here))
            if not piece:
                break
            file.write(piece)
            state.update(piece)
            here += len(piece)
            progress(here)
        file.flush()
        os.fsync(file.fileno())
    if here < blob.size:
        raise DeviceError(
            f"{name}: the link ended after {here} of {blob.size} bytes",
            remedy="Deploy again: it goes on there.",
        )
    if "sha256:" + state.hexdigest() != blob.digest:
        part.unlink()
        raise IntegrityError(f"{name}: what arrived is not {blob.digest}; it was thrown away")
    part.rename(folder / name)
    return {"name": name, "size": here}


def stage(places: Places, slot: str) -> None:
    """Make a slot of what was received; it appears whole or not at all."""
    folder = places.incoming / digests.hexdigits("sha256:" + slot)
    if _is_whole(places, slot):
        if folder.exists():
            slots.remove(folder)
        return
    built = manifest.parse_artifact((folder / ".manifest.json").read_bytes())
    fresh = places.slots / f".{slot}"
    if fresh.exists():
        slots.remove(fresh)
    files = fresh / "files"
    files.mkdir(parents=True)
    for name, blob in built.files:
        _require(folder / name, blob)
        os.link(str(folder / name), str(files / name))
        (files / name).chmod(0o444)
    for name in ("index.json", "signature", "manifest.json"):
        os.link(str(folder / f".{name}"), str(fresh / name))
    sync_folder(files)
    sync_folder(fresh)
    if places.slot(slot).exists():
        slots.remove(places.slot(slot))
    fresh.rename(places.slot(slot))
    sync_folder(places.slots)
    slots.remove(folder)


def _sole_writer(file: BinaryIO, name: str) -> None:
    """Hold the file as long as it is open; a connection that was cut may still be writing it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DeviceError(
            f"{name} is being sent by another connection", remedy="Try again in a minute."
        ) from error


def _is_whole(places: Places, slot: str) -> bool:
    """Say whether a slot is there, every byte of it; one that has rotted is made anew."""
    try:
        slots.verify(places, slot)
    except (IntegrityError, OSError):
        return False
    return True


def _missing(places: Places, folder: Path, built: Artifact) -> list[dict[str, Any]]:
    """Return the files that must still come; those of other slots are taken from there by a link."""
    missing = []
    for name, blob in built.files:
        if (folder / name).is_file() or _borrow(places, folder, name, blob):
            continue
        part = folder / (name + ".part")
        offset = part.stat().st_size if part.exists() else 0
        if offset > blob.size:
            part.unlink()
            offset = 0
        missing.append({"name": name, "size": blob.size, "offset": offset})
    return missing


def _borrow(places: Places, folder: Path, name: str, blob: Blob) -> bool:
    for slot in slots.names(places):
        for held, other in slots.holding(places, slot):
            path = places.files(slot) / held
            if other.digest == blob.digest and path.is_file() and digests.of_file(path) == blob.digest:
                folder.mkdir(exist_ok=True)
                os.link(str(path), str(folder / name))
                return True
    return False


def _require(path: Path, blob: Blob) -> None:
    if not path.is_file() or digests.of_file(path) != blob.digest:
        if path.is_file():
            path.unlink()
        raise IntegrityError(
            f"{path.name} is not here whole", remedy="Deploy again: it sends what is missing."
        )


def _refuse_other_machine(arch: str) -> None:
    here = platform.machine()
    if here != arch:
        raise DoesNotFitError(f"the artifact is for {arch}, this device is {here}")


def _refuse_full_disk(places: Places, needed: int) -> None:
    free = shutil.disk_usage(str(places.root)).free
    if needed + DISK_RESERVE > free:
        short = needed + DISK_RESERVE - free
        raise DoesNotFitError(
            f"disk: {short / 1e6:.1f} MB short ({needed / 1e6:.1f} MB to come, {DISK_RESERVE / 1e6:.0f} MB "
            f"kept free, {free / 1e6:.1f} MB free)"
        )

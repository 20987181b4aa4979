"""What is on its way in: a folder for each release that comes, in it a part for each file until it is whole.

ROOT/incoming/<slot>/.index.json, .signature, .manifest.json     what was signed, and what it names
ROOT/incoming/<slot>/.NAME.part                                  a file that is not whole yet
ROOT/incoming/<slot>/NAME                                        one that is: its digest held

It does not know who sends. Laws: a file has its own name only after its digest held; no part is longer
than what it is to become; no two processes write one part.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import DOC_TYPE, Artifact, Blob
from slmops.device.places import Places, sync_folder
from slmops.errors import DeviceError, IntegrityError

WAIT = 75.0
"""Seconds that a writer waits for another: longer than an agent waits for an operator who fell silent."""

_hashed: dict[Path, tuple[int, Any]] = {}
"""How far this process has hashed each part, and its sha256 so far."""
_seen: dict[Path, tuple[int, int, int]] = {}
"""The files whose digest this process has seen to hold: inode, size and time of the last change."""


def folder(places: Places, slot: str) -> Path:
    """Return where a release comes in."""
    return places.incoming / digests.hexdigits("sha256:" + slot)


def artifact(places: Places, slot: str) -> Artifact:
    """Return the manifest of a release that comes; raise DeviceError before it was prepared."""
    try:
        return manifest.parse_artifact((folder(places, slot) / ".manifest.json").read_bytes())
    except FileNotFoundError as error:
        raise DeviceError(f"release {slot[:12]} is not prepared", remedy="Deploy again.") from error


def part_of(place: Path) -> Path:
    """Return the part of a file; no file of an artifact is called so."""
    return place.with_name(f".{place.name.lstrip('.')}.part")


def place_of(places: Places, said: dict[str, Any]) -> tuple[Path, Blob]:
    """Return where a file is to lie and what it must be.

    `said` holds `slot` and `name`; with `delta` {digest, size} it is that delta for the file. A delta that is
    not smaller than what it makes is none.
    """
    name = said["name"]
    blob = dict(artifact(places, said["slot"]).files)[
        name.removesuffix(".delta") if said.get("delta") else name
    ]
    if not said.get("delta"):
        return folder(places, said["slot"]) / name, blob
    digest, size = digests.parse(said["delta"]["digest"]), said["delta"]["size"]
    if not isinstance(size, int) or not 0 <= size < blob.size:
        raise IntegrityError(f"{name}: a delta of {size} bytes for a file of {blob.size}")
    place = folder(places, said["slot"]) / f".{name.removesuffix('.delta')}.{digests.short(digest)}.delta"
    return place, Blob(DOC_TYPE, digest, size)


@contextmanager
def writing(place: Path, blob: Blob) -> Iterator[BinaryIO | None]:
    """Open the part of a file, to be its only writer; None where the file is here whole.

    Who was waited for may have given the part its name, or thrown it away: it is looked for again.
    """
    part, end = part_of(place), time.monotonic() + WAIT
    while not holds(place, blob):
        with os.fdopen(os.open(str(part), os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            _be_alone(file, place.name, end)
            if _is_called(file, part):
                if os.fstat(file.fileno()).st_size > blob.size:
                    file.truncate(blob.size)
                yield file
                return
    yield None


def hashed(place: Path, offset: int) -> Any:
    """Return the sha256 of a part's first `offset` bytes if this process knows it, else None."""
    if offset == 0:
        return hashlib.sha256()
    known, state = _hashed.get(place, (0, None))
    return state if known == offset else None


def remember(place: Path, offset: int, state: Any) -> None:
    """Remember the sha256 of a part's first `offset` bytes, so that nobody reads them again."""
    _hashed[place] = (offset, state)


def forget(place: Path) -> None:
    """Forget how far a part was hashed: it is about to change."""
    _hashed.pop(place, None)


def accept(place: Path, blob: Blob) -> None:
    """Give a part that is here to its last byte its name, if its digest holds; else throw it away."""
    part, state = part_of(place), hashed(place, blob.size)
    digest = digests.of_file(part) if state is None else "sha256:" + state.hexdigest()
    forget(place)
    if digest != blob.digest:
        part.unlink()
        raise IntegrityError(f"{place.name}: what arrived is not {blob.digest}; it was thrown away")
    part.rename(place)
    sync_folder(place.parent)
    _seen[place] = _stamp(place)


def holds(place: Path, blob: Blob) -> bool:
    """Say whether a file is what it must be, reading it unless this process has seen that already."""
    if not place.is_file():
        return False
    if _seen.get(place) != _stamp(place):
        if digests.of_file(place) != blob.digest:
            return False
        _seen[place] = _stamp(place)
    return True


def _stamp(place: Path) -> tuple[int, int, int]:
    found = place.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_called(file: BinaryIO, path: Path) -> bool:
    """Say whether an open file has that name still."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _be_alone(file: BinaryIO, name: str, end: float) -> None:
    """Hold the file as long as it is open; a connection that was cut may still be writing it."""
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise DeviceError(
                    f"{name} is being sent by another connection", remedy="Try again in a minute."
                ) from error
            time.sleep(0.05)

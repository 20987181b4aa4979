"""Receive a file, or what of it is not here: hashed as it comes, synced now and then, named when it is whole.

What a cut link or a power cut left of a file is compared chunk by chunk with what the operator has, so that
a hole, garbage or a torn end is found and nothing that is good comes twice.
Laws: no byte beyond what the signed manifest allows is written; a part grows without holes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from slmops.artifact.manifest import Blob
from slmops.device import disk, incoming, line
from slmops.device.places import Places
from slmops.errors import DeviceError, IntegrityError
from slmops.wire import CHUNK_DIGITS

FULL = (errno.ENOSPC, errno.EDQUOT)
SYNC = 16 << 20
"""Bytes after which what came is synced: so much a power cut costs, and so long a slow disk stalls."""


def compare(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Say which chunks of a part are not what the operator has.

    `said` holds `slot`, `name` (and `delta`), the `chunk` length and the `digests` of the chunks of the first
    `size` bytes, the last of which may be short. Returns {held: bytes here, bad: [number of a chunk]}.
    """
    place, blob = incoming.place_of(places, said)
    size, chunk, count = said["size"], said["chunk"], len(said["digests"])
    if not 0 <= size <= blob.size or chunk < 1 or count != -(-size // chunk):
        raise DeviceError(
            f"{said['name']}: expected the chunks of {blob.size} bytes or fewer, "
            f"got {count} of {chunk} for {size}"
        )
    bad: list[int] = []
    whole = hashlib.sha256()
    with incoming.writing(place, blob) as file:
        if file is None:
            # It has its name already: the link was cut after the last byte and before the answer.
            return {"held": blob.size, "bad": []}
        for number, wanted in enumerate(said["digests"]):
            length = min(chunk, size - number * chunk)
            if _chunk(file, length, None if bad else whole) != wanted:
                bad.append(number)
        held = file.seek(0, os.SEEK_END)
    if not bad:
        incoming.remember(place, size, whole)
    return {"held": held, "bad": bad}


def _chunk(file: BinaryIO, length: int, whole: Any) -> str | None:
    """Return the digest of the next `length` bytes, or None where they are not; `whole` hears them too."""
    state = hashlib.sha256()
    left = length
    while left and (piece := file.read(min(left, line.PIECE))):
        left -= len(piece)
        state.update(piece)
        if whole is not None:
            whole.update(piece)
    return None if left else state.hexdigest()[:CHUNK_DIGITS]


def receive(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Take the raw bytes that follow the request as a range of one file."""
    return take(places, said, line.read)


def take(places: Places, said: dict[str, Any], read: Callable[[int], bytes | memoryview]) -> dict[str, Any]:
    """Write a range of one file; keep what came if the link breaks, so that it can go on there.

    `said` holds `slot`, `name` (and `delta`), `offset` and `length`, and `more` when another range is to
    come; after the last one the file takes its name, if its digest holds. `read(most)` gives the bytes.
    Returns {name, size: bytes that are here, whole}.
    """
    place, blob = incoming.place_of(places, said)
    try:
        return _taken(said, place, blob, read)
    except OSError as error:
        if error.errno not in FULL:
            raise
        part = incoming.part_of(place)
        here = part.stat().st_size if part.exists() else 0
        raise disk.full(places, f"{said['name']}: the disk is full", blob.size - here) from error


def _taken(
    said: dict[str, Any], place: Path, blob: Blob, read: Callable[[int], bytes | memoryview]
) -> dict[str, Any]:
    name, offset, length = said["name"], said["offset"], said["length"]
    if min(offset, length) < 0 or offset + length > blob.size:
        raise IntegrityError(f"{name}: bytes {offset} to {offset + length} of a file of {blob.size}")
    with incoming.writing(place, blob) as file:
        if file is None:
            return {"name": name, "size": blob.size, "whole": True}
        if offset > (held := file.seek(0, os.SEEK_END)):
            raise DeviceError(f"{name}: {held} bytes are here, not {offset}", remedy="Deploy again.")
        here = _copy(file, read, place, offset, length)
        _sync(file, place)
        if here < offset + length:
            raise DeviceError(
                f"{name}: the link ended after {here} of {blob.size} bytes",
                remedy="Deploy again: it goes on there.",
            )
        whole = not said.get("more") and file.seek(0, os.SEEK_END) == blob.size
        if whole:
            incoming.accept(place, blob)
    return {"name": name, "size": here, "whole": whole}


def _sync(file: BinaryIO, place: Path) -> None:
    """Bring what was written to the disk; what the disk did not take is read from memory alone: it goes."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        incoming.part_of(place).unlink(missing_ok=True)
        raise


def _copy(
    file: BinaryIO, read: Callable[[int], bytes | memoryview], place: Path, offset: int, length: int
) -> int:
    """Write what is read, and hash it where what lies before it is hashed; return where it ended."""
    state, here, synced = incoming.hashed(place, offset), offset, offset
    incoming.forget(place)
    file.seek(offset)
    while (left := offset + length - here) and (piece := read(min(left, line.PIECE))):
        file.write(piece)
        here += len(piece)
        if state is not None:
            state.update(piece)
        if here - synced >= SYNC:
            _sync(file, place)
            synced = here
    if state is not None:
        incoming.remember(place, here, state)
    return here

"""What was decided on this device, in order, on disk: the truth that survives a power cut.

One JSON object a line. A record is synced before anybody acts on it. A torn last line, which a
power cut leaves, is not a record.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slmops.device.places import Places, sync_folder, write
from slmops.device.trial import Standing, fold
from slmops.errors import DeviceError

LONGEST = 1000
"""Records kept; beyond them the oldest that no longer matter are dropped."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return every whole record."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = []
    for line in lines[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def standing(places: Places) -> Standing:
    """Return where the device stands."""
    return fold(read(places.journal))


def append(places: Places, kind: str, **said: Any) -> Standing:
    """Write one record, synced; return where the device stands after it."""
    _drop_torn_line(places.journal)
    record = json.dumps({"kind": kind, "at": time.time(), **said}, sort_keys=True).encode() + b"\n"
    new = not places.journal.exists()
    with places.journal.open("ab") as file:
        file.write(record)
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(places.root)
    _shorten(places)
    return standing(places)


@contextmanager
def locked(places: Places, wait: float = 10.0) -> Iterator[None]:
    """Be the only one who changes this device; raise DeviceError if another still is after `wait` s."""
    with places.lock.open("w") as file:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    raise DeviceError(
                        "another operator, or the device itself, is changing it now",
                        remedy="Try again in a minute.",
                    ) from error
                time.sleep(0.05)
        yield


def _drop_torn_line(path: Path) -> None:
    """Cut off a line that a power cut left open: it was never a record, and must not become one."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(str(path), whole)


def _shorten(places: Places) -> None:
    """Drop old records once there are too many, keeping all since the last two confirmed slots."""
    records = read(places.journal)
    if len(records) <= LONGEST:
        return
    kept = records[-LONGEST // 2 :]
    whole = fold(records)
    while fold(kept) != whole and len(kept) < len(records):
        kept = records[-(len(kept) + LONGEST // 10) :]
    write(places.journal, b"".join(json.dumps(r, sort_keys=True).encode() + b"\n" for r in kept))

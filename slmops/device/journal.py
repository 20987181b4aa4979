"""What was decided on this device, in order, on disk: the truth that survives a power cut.

One JSON object a line, each with a sum of its own bytes. A record is synced before anybody acts on
it. A torn last line, which a power cut leaves, is not a record, and no more is a line that rotted.

`committed.json` is a second copy of what was last committed, and names the record that committed it.
It serves when the journal has lost that record; until then it knows nothing that the journal does not.
Laws: `standing` changes nothing; a record whose sync failed was never written; losing the journal, the
copy, or rotting lines of either leaves the committed slot in place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmops.device.places import Places, read_json, sync_folder, write, write_json
from slmops.device.trial import COMMITTED, Standing, committed, fold, step
from slmops.errors import DeviceError

LONGEST = 300
"""Records kept; beyond them the oldest that no longer matter are dropped."""
RESERVE = 64 << 10
"""Bytes set aside for records of a device whose disk is full: the way back needs one."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return every whole record; a journal that the disk does not give back has none."""
    return [record for record in map(_record, _lines(path)) if record is not None]


def rotten(path: Path) -> int:
    """Return how many lines of a journal are no records."""
    return sum(_record(line) is None for line in _lines(path))


def standing(places: Places) -> Standing:
    """Return where the device stands."""
    return _standing(places, read(places.journal), _kept(places))


def _standing(places: Places, records: list[dict[str, Any]], kept: dict[str, Any] | None) -> Standing:
    if kept is None:
        return fold(records) if records else _by_the_links(places)
    at = _place(records, kept)
    return fold(records[at + 1 :] if at is not None else [], committed(kept["standing"]))


def stamp(places: Places) -> object:
    """Return what changes whenever `standing` may."""
    return [_stamp(path) for path in (places.journal, places.committed)]


def lost(places: Places) -> str:
    """Return what the journal has lost, in words; empty when it is whole."""
    return _lost(places, read(places.journal), _kept(places))


def _lost(places: Places, records: list[dict[str, Any]], kept: dict[str, Any] | None) -> str:
    if kept is not None and _place(records, kept) is None:
        return "the journal has lost what was committed last"
    if kept is None and not records and _by_the_links(places).slot is not None:
        return "there is no journal, and a slot serves"
    return ""


def mend(places: Places) -> None:
    """Write down what a journal has lost; the caller holds the device's lock."""
    _mended(places, read(places.journal))


def _mended(places: Places, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = _kept(places)
    if not _lost(places, records, kept):
        return records
    said = _committed_part(_standing(places, records, kept))
    return _write(places, records, {"kind": "restored", "standing": said})


def lacks_copy(places: Places) -> bool:
    """Say whether something is committed here of which there is no second copy."""
    return _kept(places) is None and _last_committed(places) is not None


def copy(places: Places) -> None:
    """Write the second copy anew; the caller holds the device's lock."""
    last = _last_committed(places)
    if last is not None:
        _keep(places, *last)


def append(places: Places, kind: str, **said: Any) -> Standing:
    """Write one record, synced; return where the device stands after it."""
    records = _write(places, _mended(places, read(places.journal)), {"kind": kind, **said})
    kept = _kept(places)
    _shorten(places, records, kept)
    return _standing(places, records, kept)


def rewrite(places: Places) -> None:
    """Write the journal anew without the lines that are no records."""
    _rewrite(places, read(places.journal))


def set_aside(places: Places) -> None:
    """Keep some bytes of disk for the journal, that a full disk does not stop the way back."""
    if not places.reserve.exists():
        write(places.reserve, os.urandom(RESERVE))


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


def _write(places: Places, records: list[dict[str, Any]], said: dict[str, Any]) -> list[dict[str, Any]]:
    """Append a record to those there are, and copy what it commits."""
    record = {**said, "at": time.time()}
    record["sum"] = _sum(record)
    line = json.dumps(record, sort_keys=True).encode() + b"\n"
    _drop_torn_line(places.journal)
    try:
        _append_synced(places.journal, line)
    except OSError as error:
        if error.errno != errno.ENOSPC or not places.reserve.exists():
            raise
        places.reserve.unlink()
        _append_synced(places.journal, line)
    # Even where the file was there: it may be that nobody has synced its name yet.
    sync_folder(places.root)
    records = [*records, record]
    after = _standing(places, records, _kept(places))
    if after.trial is None:
        # The journal has it already: a copy that cannot be written costs nothing now.
        with suppress(OSError):
            _keep(places, record["sum"], after)
    return records


def _append_synced(path: Path, line: bytes) -> None:
    """Append a line, whole and synced, or not at all."""
    with path.open("ab", buffering=0) as file:
        whole = file.tell()
        try:
            left = line
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(file.fileno())
        except OSError:
            # What was not synced may still be read: nobody must act on it.
            with suppress(OSError):
                os.ftruncate(file.fileno(), whole)
            raise


def _stamp(path: Path) -> object:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record that a line is, if it is one and its sum holds."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("kind"), str):
        return None
    # Agents before this one wrote no sums.
    return said if said.get("sum") in (None, _sum(said)) else None


def _sum(said: dict[str, Any]) -> str:
    bare = {key: value for key, value in said.items() if key != "sum"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()[:16]


def _place(records: list[dict[str, Any]], kept: dict[str, Any]) -> int | None:
    """Return where the record stands that the copy was made of, or that was restored from the copy."""
    for at in reversed(range(len(records))):
        if records[at].get("sum") == kept["record"] or records[at].get("standing") == kept["standing"]:
            return at
    return None


def _kept(places: Places) -> dict[str, Any] | None:
    """Return the second copy {record, standing}, if it is whole."""
    try:
        said = read_json(places.committed)
    except OSError:
        return None
    return said if said is not None and said.get("sum") == _sum(said) else None


def _keep(places: Places, record: str, after: Standing) -> None:
    said: dict[str, Any] = {"record": record, "standing": _committed_part(after)}
    write_json(places.committed, {**said, "sum": _sum(said)})


def _last_committed(places: Places) -> tuple[str, Standing] | None:
    """Return the last record that left nothing on trial, by its sum, and where the device stood then."""
    found, standing = None, Standing()
    for record in read(places.journal):
        standing = step(standing, record)
        if standing.trial is None and "sum" in record:
            found = (record["sum"], standing)
    return found


def _committed_part(after: Standing) -> dict[str, Any]:
    return {key: value for key, value in asdict(after).items() if key in COMMITTED}


def _by_the_links(places: Places) -> Standing:
    """Return what the links say serves: all that is left when journal and copy are lost."""
    slots = [
        link.readlink().name if link.is_symlink() and link.exists() else None
        for link in (places.current, places.previous)
    ]
    return Standing(slot=slots[0] or slots[1], previous=slots[1] if slots[0] else None)


def _drop_torn_line(path: Path) -> None:
    """Cut off a line that a power cut left open: it was never a record, and must not become one."""
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(str(path), whole)


def _shorten(places: Places, records: list[dict[str, Any]], kept: dict[str, Any] | None) -> None:
    """Drop old records once there are too many; what the device stands on stays."""
    if len(records) <= LONGEST:
        return
    newest = LONGEST // 2
    if kept is not None:
        newest = max(newest, len(records) - (_place(records, kept) or 0))
    else:
        whole = fold(records)
        while fold(records[-newest:]) != whole and newest < len(records):
            newest += LONGEST // 10
    # It is only long: a disk that is full may keep it so.
    with suppress(OSError):
        _rewrite(places, records[-newest:])


def _rewrite(places: Places, records: list[dict[str, Any]]) -> None:
    write(places.journal, b"".join(json.dumps(each, sort_keys=True).encode() + b"\n" for each in records))

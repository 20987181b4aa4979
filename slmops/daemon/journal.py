"""What was decided about versions, in order, on disk: what a router that starts again knows.

One JSON object a line, each with a sum of its own bytes; what they come to is `versions`' business. Without
a folder it is kept in memory alone, and ends with the process.

Laws: a record is on disk before anybody acts on it; one that had to be and could not was never said; a torn
last line, which a power cut leaves, is no record, and no more is a line that rotted; one process has it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zlib
from contextlib import suppress
from pathlib import Path

from slmops.daemon.versions import Record, State, fold, kept, step
from slmops.errors import SlmopsError, UsageError

FILE_NAME = "versions.jsonl"
LONGEST = 400
"""Records after which a journal is rewritten, when it is opened next."""
log = logging.getLogger("slmops.daemon")


class Journal:
    """The records of one router, and what they come to."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open the journal in `folder`, or one in memory; raise UsageError when another router has it."""
        self.state = State()
        self.lost = 0
        """Lines that were no records when it was opened."""
        self._hold: int | None = None
        self._file: int | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._hold = _held(folder)
            self._file = self._open(folder)

    def write(self, record: Record, *, must: bool = True) -> State:
        """Put a record on disk, then count it; raise SlmopsError, and count nothing, if the disk refuses.

        One that need not (`must`) be on disk is counted all the same, until the process ends.
        """
        try:
            if self._file is not None:
                _append(self._file, _line(record))
        except SlmopsError as error:
            if must:
                raise
            log.warning("%s", error)
        self.state = step(self.state, record)
        return self.state

    def close(self) -> None:
        """Let go of the folder; another router may have it."""
        for descriptor in (self._file, self._hold):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._hold = None

    def _open(self, folder: Path) -> int:
        path = folder / FILE_NAME
        records, self.lost, torn = _read(path)
        self.state = fold(records)
        if torn or self.lost or len(records) > LONGEST:
            _rewrite(path, _line(kept(self.state, _latest(records))))
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        _sync(folder)
        return file


def read(folder: Path) -> list[Record]:
    """Return every whole record of a journal, oldest first, for who looks at it from outside."""
    return _read(folder / FILE_NAME)[0]


def _read(path: Path) -> tuple[list[Record], int, bool]:
    """Return the records, how many lines are none, and whether the last line has no end."""
    *whole, rest = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = [_record(line) for line in whole]
    records = [record for record in found if record is not None]
    return records, len(found) - len(records), bool(rest)


def _record(line: bytes) -> Record | None:
    """Return the record on a line, or None where its sum is not that of its bytes."""
    body, mark, rest = line.rpartition(b', "sum": "')
    if not mark or rest != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    return dict(json.loads(body + b"}"))


def _line(record: Record) -> bytes:
    body = json.dumps(record).encode()[:-1]
    return body + f', "sum": "{zlib.crc32(body):08x}"}}\n'.encode()


def _latest(records: list[Record]) -> float:
    return max((float(record.get("at", 0)) for record in records), default=0.0)


def _append(file: int, line: bytes) -> None:
    before = os.fstat(file).st_size
    try:
        while line:
            line = line[os.write(file, line) :]
        os.fsync(file)
    except OSError as error:
        # Half a record before the next one would make that one unreadable too.
        with suppress(OSError):
            os.ftruncate(file, before)
        raise SlmopsError(
            f"the journal cannot be written: {error.strerror}", remedy="See that the disk has room."
        ) from error


def _rewrite(path: Path, line: bytes) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    _sync(path.parent)


def _held(folder: Path) -> int:
    """Return a hold on the folder that ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(
            f"another router has {folder}", remedy="End it first, or give this one another --state."
        ) from error
    return descriptor


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Every write that a disk was told, in order, and the disk as a power cut would have left it.

qemu's `blklogwrites` records them (in the format of Linux' dm-log-writes). A disk with a volatile cache
promises what it was told before the last flush, and no more: of what came after, a power cut leaves any part.

Laws: what a completed flush covers is always there; of the writes since, each block is kept or lost by lot;
the same seed leaves the same disk.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4
BLOCK = 4096
"""What the drawn disk writes whole or not at all."""


@dataclass(frozen=True)
class Write:
    """One thing that the disk was told; `end` is where its record ends in the log, in bytes."""

    offset: int
    size: int
    data_at: int
    flags: int
    end: int


@dataclass(frozen=True)
class Lost:
    """What a cut cost: blocks written since the last flush, and how many of them are gone."""

    open_blocks: int
    lost_blocks: int


def read_log(path: Path) -> list[Write]:
    """Return what the disk was told; raise ValueError for a log that another tool wrote."""
    with path.open("rb") as file:
        magic, version, _, sector = SUPER.unpack(file.read(SUPER.size))
        if (magic, version, sector) != (MAGIC, 1, SECTOR):
            raise ValueError(f"{path} is no log of writes in sectors of {SECTOR} bytes")
        found, at, end = [], SECTOR, path.stat().st_size
        while at + ENTRY.size <= end:
            file.seek(at)
            first, count, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
            if (first, count, flags) == (0, 0, 0):
                break
            data_at = at + SECTOR
            at = data_at + (0 if flags & DISCARD else count * SECTOR)
            found.append(Write(first * SECTOR, count * SECTOR, data_at, flags, at))
    return found


def cut(disk: Path, log: Path, writes: list[Write], at: int, lot: random.Random) -> Lost:
    """Make of `disk`, as it was when the log began, what a power cut after `writes[:at]` leaves."""
    safe = max((n + 1 for n in range(at) if writes[n].flags & FLUSH), default=0)
    opened = lost = 0
    with disk.open("r+b") as out, log.open("rb") as told:
        for number, write in enumerate(writes[:at]):
            if write.flags & DISCARD or not write.size:
                continue
            sure = number < safe or bool(write.flags & FUA)
            for start, size in _blocks(write):
                opened += not sure
                if not sure and lot.random() < 1 / 2:
                    lost += 1
                    continue
                told.seek(write.data_at + start)
                out.seek(write.offset + start)
                out.write(told.read(size))
    return Lost(opened, lost)


def _blocks(write: Write) -> Iterator[tuple[int, int]]:
    for start in range(0, write.size, BLOCK):
        yield start, min(BLOCK, write.size - start)

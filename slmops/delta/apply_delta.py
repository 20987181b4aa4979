"""Apply a delta: make the target file of the base, in one pass and little memory.

Runs on devices, in a process of its own, with the runtime's Python: 3.9 and numpy. The caller gives paths
and hashes what comes out.

Laws: memory does not grow with the files; nothing is written beyond the size that the delta states; a delta
that is no delta, or another base's, is an IntegrityError and leaves no target.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from slmops.delta import delta
from slmops.delta.decode import Decoding
from slmops.delta.delta import Operation
from slmops.delta.follow import KINDS, follow, pieces
from slmops.delta.sections import (
    CHUNK,
    MOST_PREFIXED,
    Section,
    Unpacked,
    primed_unpacker,
    read,
    size,
    unpack,
    unpacked_whole,
)
from slmops.errors import IntegrityError, SlmopsError

Bytes = npt.NDArray[np.uint8]


def apply_delta(base: Path, delta_file: Path, out: Path) -> None:
    """Write to `out` what `delta_file` makes of `base`; raise IntegrityError if it cannot."""
    try:
        with base.open("rb") as old, delta_file.open("rb") as said, out.open("w+b") as new:
            _Application(old, said, new).run()
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def main(words: Sequence[str]) -> int:
    """Run `apply_delta BASE DELTA OUT`; 0 if OUT stands, else 1 and a line that says why."""
    if len(words) != 3:  # noqa: PLR2004
        sys.stderr.write("usage: apply_delta BASE DELTA OUT\n")
        return 1
    try:
        apply_delta(*map(Path, words))
    except (SlmopsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


class _Application:
    """A delta that is being applied: where each of its sections is read, and where the target is written."""

    def __init__(self, base: BinaryIO, said: BinaryIO, out: BinaryIO) -> None:
        self._header, start = delta.parse_header(said.read(delta.MOST_HEADER))
        if self._header.base_size != size(base):
            raise IntegrityError(f"a delta for a base of {self._header.base_size} bytes, got {size(base)}")
        self._base, self._out = base, out
        self._written = self._checksum = self._place = 0
        sections = []
        for stored, _ in self._header.sections:
            sections.append(Section(said, start, stored))
            start += stored
        if start != size(said):
            raise IntegrityError(f"a delta of {start} bytes, got {size(said)}")
        operations, tables = (
            unpacked_whole(sections[each], self._header.sections[each][1])
            for each in (delta.OPERATIONS, delta.TABLES)
        )
        self._operations = delta.parse_operations(operations)
        self._fresh = Unpacked(sections[delta.FRESH], self._header.sections[delta.FRESH][1])
        self._as_is = sections[delta.AS_IS]
        self._coder = Decoding(self._header.lanes, tables, sections[delta.CODED], self._as_is)

    def run(self) -> None:
        """Write the whole target."""
        for operation in self._operations:
            if operation.kind == delta.GO:
                self._place = operation.length
                self._checksum = delta.checksum_of_place(self._place, self._checksum)
            elif operation.length > self._header.target_size - self._written:
                raise IntegrityError("a delta makes more than it states")
            else:
                self._carry_out(operation)
        self._coder.finish()
        if (self._written, self._checksum) != (self._header.target_size, self._header.checksum):
            raise IntegrityError("a delta makes something else of this base than it states")

    def _carry_out(self, operation: Operation) -> None:
        kind = operation.kind
        if kind == delta.PREFIXED:
            self._write_prefixed(operation)
        elif kind in KINDS:
            self._coder.turn_to(operation)
            for piece in pieces(operation):
                files = self._read_base, self._read_target
                self._write(follow(operation, piece, files, None, self._coder))
        else:
            for start in range(0, operation.length, CHUNK):
                count = min(CHUNK, operation.length - start)
                if kind == delta.COPY:
                    self._write(self._read_base(operation.base + start, count))
                else:
                    self._write(self._fresh.take(count))

    def _write_prefixed(self, operation: Operation) -> None:
        """Let LZMA go on from a piece of the base: to it, that piece is what it has unpacked before."""
        base_length, stored = operation.arguments
        if base_length + operation.length > MOST_PREFIXED:
            raise IntegrityError(f"a delta wants {base_length + operation.length} bytes in memory")
        unpacker = primed_unpacker(
            lambda start, count: self._read_base(operation.base + start, count), base_length, operation.length
        )
        packed, left = self._as_is.take(stored), operation.length
        while left:
            some = unpack(unpacker, packed, min(left, CHUNK))
            packed, left = b"", left - len(some)
            self._write(np.frombuffer(some, np.uint8))

    def _read_base(self, place: int, count: int) -> Bytes:
        return read(self._base, place, count)

    def _read_target(self, place: int, count: int) -> Bytes:
        return read(self._out, place, count)

    def _write(self, some: Bytes) -> None:
        if self._place + len(some) > self._header.target_size:
            raise IntegrityError("a delta writes beyond the end that it states")
        self._out.seek(self._place)
        self._out.write(some.data)
        self._place += len(some)
        self._written += len(some)
        self._checksum = zlib.crc32(some.data, self._checksum)

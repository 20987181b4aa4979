"""Make a delta: the bytes that turn one artifact's file into another's, mostly how its weights moved.

Operator side. Two passes over the weights: one counts, and tables are made of that; the other codes, from
the end of the file to its beginning, because a decoder undoes what was coded last.

Laws: what is written has been applied, and made the target, before this returns; memory does not grow with
the weights.
"""

from __future__ import annotations

import itertools
import lzma
import math
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slmops.delta import delta, rans
from slmops.delta.apply_delta import apply_delta
from slmops.delta.delta import Header, Operation
from slmops.delta.encode import Backwards, Counting, Recording
from slmops.delta.follow import KINDS, follow, pieces
from slmops.delta.match_bytes import Planned
from slmops.delta.plan_delta import plan_delta
from slmops.delta.sections import CHUNK, DICTIONARY, filters, packed, read, size
from slmops.delta.tables import Tables
from slmops.digest import of_file
from slmops.errors import IntegrityError

BYTES_A_LANE = 500
"""Coded bytes for which one more lane is had: it takes about four of its own."""
NAMES = ("copied", "new", "after the base", "blocks", "new blocks", "floats", "bytes", "grid")
"""For people: what operations do, by their numbers."""


@dataclass(frozen=True)
class DeltaReport:
    """What a delta came to."""

    bytes: int
    target_bytes: int
    seconds: float
    target_bytes_by: dict[str, int]
    """How many bytes of the target were made in which way."""

    @property
    def worth_it(self) -> bool:
        """Return whether it is smaller than the target itself."""
        return self.bytes < self.target_bytes


def make_delta(base: Path, target: Path, out: Path) -> DeltaReport:
    """Write to `out` what makes `target` of `base`; raise IntegrityError if it would not."""
    begun = time.monotonic()
    with base.open("rb") as old, target.open("rb") as new, out.open("wb") as made:
        planned = _Making(old, new).write(made)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        again = Path(folder) / "again"
        apply_delta(base, out, again)
        if of_file(again) != of_file(target):
            raise IntegrityError(f"the delta from {base} does not make {target}")
    by = dict.fromkeys(NAMES, 0)
    for each in planned:
        by[NAMES[each.operation.kind]] += each.operation.length
    return DeltaReport(
        bytes=out.stat().st_size,
        target_bytes=target.stat().st_size,
        seconds=time.monotonic() - begun,
        target_bytes_by={name: count for name, count in by.items() if count},
    )


class _Making:
    """A delta that is being made of two open files."""

    def __init__(self, base: BinaryIO, target: BinaryIO) -> None:
        self._base, self._target = base, target
        self._files = (
            lambda place, count: read(base, place, count),
            lambda place, count: read(target, place, count),
        )

    def write(self, out: BinaryIO) -> Sequence[Planned]:
        """Write the delta; return its operations."""
        tables = Tables()
        planned = [self._with_tables(each, tables) for each in plan_delta(self._base, self._target)]
        shares = tables.finish()
        lanes = min(rans.MOST_LANES, math.ceil(tables.coded_bytes() / BYTES_A_LANE))
        directory = (
            delta.write_operations(_with_places(planned)),
            delta.write_tables(table.tolist() for table in shares),
        )
        small = [packed(part) for part in directory]
        with Backwards() as coded, Backwards() as as_is, tempfile.TemporaryFile() as fresh:
            self._code(planned, rans.Encoder(lanes, coded.add), shares, as_is)
            new = self._pack_new(planned, fresh)
            stored = (*map(len, small), size(fresh), as_is.length, coded.length)
            unpacked = (*map(len, directory), new, as_is.length, coded.length)
            sizes = size(self._base), size(self._target)
            header = Header(*sizes, self._checksum(planned), lanes, tuple(zip(stored, unpacked)))
            out.write(delta.write_header(header) + b"".join(small))
            fresh.seek(0)
            shutil.copyfileobj(fresh, out)
            out.writelines(itertools.chain(as_is.pieces(), coded.pieces()))
        return planned

    def _with_tables(self, planned: Planned, tables: Tables) -> Planned:
        """Count what the operation's weights need, and give it tables."""
        if planned.operation.kind not in KINDS:
            return planned
        counting = self._counted(planned)
        if planned.operation.kind == delta.GRID:  # where a training went far, codes follow codes more closely
            plainly = planned._replace(operation=planned.operation._replace(kind=delta.BYTES, arguments=()))
            counting, planned = min(
                ((counting, planned), (self._counted(plainly), plainly)), key=lambda each: each[0].bits
            )
        operation = planned.operation
        arguments = (*operation.arguments, *counting.choose(tables))
        return planned._replace(operation=operation._replace(arguments=arguments))

    def _counted(self, planned: Planned) -> Counting:
        counting = Counting()
        for piece in pieces(planned.operation):
            follow(planned.operation, piece, self._files, self._actual(planned, piece), counting)
        return counting

    def _code(
        self,
        planned: Sequence[Planned],
        coder: rans.Encoder,
        shares: Sequence[rans.Numbers],
        as_is: Backwards,
    ) -> None:
        """Code all weights, from the end."""
        for each in reversed(planned):
            as_is.add(each.payload)
            if each.operation.kind not in KINDS:
                continue
            grouping, *tables = each.operation.arguments[-1 - len(delta.STREAMS) :]
            for piece in reversed(list(pieces(each.operation))):
                recording = Recording(grouping)
                follow(each.operation, piece, self._files, self._actual(each, piece), recording)
                for stream, symbols in reversed(recording.streams):
                    if tables[stream]:
                        coder.put(symbols, shares[tables[stream] - 1])
                    else:
                        as_is.add(symbols.tobytes())
        coder.finish()

    def _pack_new(self, planned: Sequence[Planned], into: BinaryIO) -> int:
        """Write all that stands nowhere in the base to `into`, packed if that pays; return its length."""
        news = [each for each in planned if each.operation.kind == delta.NEW]
        length = sum(each.operation.length for each in news)
        if length <= CHUNK:
            into.write(packed(b"".join(self._target_pieces(news))))
            return length
        packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters(DICTIONARY))
        into.writelines(map(packer.compress, self._target_pieces(news)))
        into.write(packer.flush())
        if size(into) >= length:
            into.seek(0)
            into.truncate()
            into.writelines(self._target_pieces(news))
        return length

    def _checksum(self, planned: Sequence[Planned]) -> int:
        checksum = place = 0
        for each in planned:
            if each.place != place:
                checksum = delta.checksum_of_place(each.place, checksum)
            for piece in self._target_pieces([each]):
                checksum = zlib.crc32(piece, checksum)
            place = each.place + each.operation.length
        return checksum

    def _target_pieces(self, planned: Sequence[Planned]) -> Iterator[bytes]:
        for each in planned:
            for start in range(0, each.operation.length, CHUNK):
                count = min(CHUNK, each.operation.length - start)
                yield read(self._target, each.place + start, count).tobytes()

    def _actual(self, planned: Planned, piece: tuple[int, int]) -> rans.Bytes:
        return read(self._target, planned.place + piece[0], piece[1] - piece[0])


def _with_places(planned: Sequence[Planned]) -> Iterator[Operation]:
    """Yield the operations, with a GO wherever one does not begin where the one before ended."""
    place = 0
    for each in planned:
        if each.place != place:
            yield Operation(delta.GO, each.place)
        yield each.operation
        place = each.place + each.operation.length

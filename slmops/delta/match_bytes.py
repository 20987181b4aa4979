"""Match bytes that are no weights: headers, vocabularies, graphs, text, and files of other kinds.

Operator side. What is the same at both ends is copied. What lies between goes by whichever takes the fewest
bytes: LZMA with the base before it, LZMA alone, or the differences of one byte to the other.

Laws: memory is bounded by SLICE and MOST_PREFIXED, however long the files are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from slmops.delta.copies import Run, runs
from slmops.delta.delta import BYTES, COPY, NEW, PREFIXED, Operation, write_operations
from slmops.delta.prefixed import pack_after
from slmops.delta.sections import MOST_PREFIXED, packed, read
from slmops.delta.tables import bits, table_bits

Bytes = npt.NDArray[np.uint8]
Span = tuple[int, int]
"""Start and end in a file."""

SLICE = 4 << 20
"""Bytes of the target that are matched at a time."""
MOST_KNOWN = MOST_PREFIXED - SLICE
MOST_SEARCHED = 6 << 20
"""Bytes of the base in which runs are searched wherever they lie."""
MOST_RUNS = 1 << 12
_OPERATION = 6
"""Bytes that one more operation takes, about."""


class Planned(NamedTuple):
    """An operation that lacks its tables, and what it needs besides."""

    operation: Operation
    place: int
    """Where in the target it writes."""
    payload: bytes = b""


def match_bytes(base: BinaryIO, target: BinaryIO, before: Span, gap: Span) -> Iterator[Planned]:
    """Yield operations that make `gap` of the target, for which `before` in the base is what it was."""
    room = min(before[1] - before[0], gap[1] - gap[0])
    first = _same(lambda start, end: _span(base, target, before[0], gap[0], (start, end)), room)
    last = _same(lambda start, end: _span(base, target, before[1], gap[1], (-end, -start)), room - first)
    if first:
        yield Planned(Operation(COPY, first, before[0]), gap[0])
    inner, across = (gap[0] + first, gap[1] - last), (before[0] + first, before[1] - last)
    for start in range(*inner, SLICE):
        end = min(start + SLICE, inner[1])
        opposite = across[0] + start - inner[0]
        facing = opposite, (opposite + end - start if _length(inner) == _length(across) else opposite)
        yield from _shortest((base, target), before, facing, (start, end))
    if last:
        yield Planned(Operation(COPY, last, before[1] - last), gap[1] - last)


def _shortest(files: tuple[BinaryIO, BinaryIO], before: Span, facing: Span, here: Span) -> list[Planned]:
    """Return the operations that make `here` of the target with the fewest bytes.

    `facing` is where in the base it was; empty, where what was there was of another length.
    """
    base, target = files
    wanted, length = read(target, here[0], _length(here)), _length(here)
    ways = [(len(packed(wanted.tobytes())), [Planned(Operation(NEW, length), here[0])])]
    if _length(facing) == length:
        counts = np.bincount(wanted - read(base, facing[0], length), minlength=256)
        if counts[0] == length:
            return [Planned(Operation(COPY, length, facing[0]), here[0])]
        cost = _OPERATION + int(bits(counts) + table_bits(counts)) // 8
        ways.append((cost, [Planned(Operation(BYTES, length, facing[0]), here[0])]))
    start = max(before[0], min(facing[0] - SLICE, before[1] - MOST_KNOWN))
    known = read(base, start, min(before[1] - start, MOST_KNOWN))
    for text in (False, True):
        after = pack_after(known.tobytes(), wanted.tobytes(), text=text) if len(known) else None
        if after is not None:
            made = Operation(PREFIXED, length, start, (len(known), len(after)))
            ways.append((len(after) + _OPERATION, [Planned(made, here[0], after)]))
    if len(known) <= MOST_SEARCHED and _length(before) <= MOST_KNOWN:
        ways.append(_copies(known, wanted, start, here[0]))
    return min(ways, key=lambda way: way[0])[1]


def _copies(known: Bytes, wanted: Bytes, start: int, place: int) -> tuple[int, list[Planned]]:
    """Return operations that copy what there is of `wanted` and write the rest anew; first what they take."""
    planned, done, fresh = list[Planned](), 0, list[Bytes]()
    found = list(itertools.islice(runs(known, wanted), MOST_RUNS))
    for run in (*found, Run(len(wanted), 0, 0)):
        if run.target > done:
            fresh.append(wanted[done : run.target])
            planned.append(Planned(Operation(NEW, run.target - done), place + done))
        if run.length:
            planned.append(Planned(Operation(COPY, run.length, start + run.base), place + run.target))
        done = run.target + run.length
    said = packed(write_operations(each.operation for each in planned))
    return len(said) + len(packed(b"".join(part.tobytes() for part in fresh))), planned


def _same(pairs: Callable[[int, int], tuple[Bytes, Bytes]], room: int) -> int:
    """Return how many bytes are the same from a beginning on; `pairs` returns both sides of a span there."""
    for start in range(0, room, SLICE):
        one, other = pairs(start, min(start + SLICE, room))
        apart = np.flatnonzero(one != other)
        if len(apart):
            return start + int(apart[0])
    return room


def _span(base: BinaryIO, target: BinaryIO, before: int, gap: int, span: Span) -> tuple[Bytes, Bytes]:
    """Return a span of both files, from a place in each; backwards where the span lies before it."""
    one, other = (
        read(file, place + span[0], _length(span)) for file, place in ((base, before), (target, gap))
    )
    return (one[::-1], other[::-1]) if span[0] < 0 else (one, other)


def _length(span: Span) -> int:
    return span[1] - span[0]

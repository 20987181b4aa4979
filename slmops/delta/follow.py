"""Carry out one operation on weights, piece by piece: the same for who makes a delta and who applies it.

Reads the base, and what stands of the target, through what it is given; knows no files and no tables.

Laws: memory is bounded by PIECE, whatever an operation says of itself; an operation that cannot be is an
IntegrityError.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from slmops.delta.delta import BLOCKS, BYTES, GRID, NEW_BLOCKS, WORDS, Operation
from slmops.delta.difference import CODES, Coder, Grid, follow_blocks, follow_words, regridded
from slmops.delta.fields import LAYOUTS, Layout, nibbles, packed_nibbles
from slmops.errors import IntegrityError

Bytes = npt.NDArray[np.uint8]
Read = Callable[[int, int], Bytes]
"""Takes a place and a count, returns so many bytes."""

PIECE = 1 << 19
"""Weights that are worked on at a time."""
KINDS = (BLOCKS, NEW_BLOCKS, WORDS, BYTES, GRID)
NAMES = tuple(LAYOUTS)
"""Layouts by their number in an operation."""
FOUR_BITS, EIGHT_BITS = 4, 8
BLOCK = 32
"""Weights of four bits that share a scale, in ONNX Runtime's MatMulNBits."""


class Grids(NamedTuple):
    """Where the scales and zeros of a GRID operation lie."""

    bits: int
    columns: int
    """8 bits: columns, each with a scale and a zero. 4 bits: blocks of 32 in a row, each with both."""
    width: int
    """Bytes of a scale: 2 or 4."""
    base_scales: int
    scales: int
    base_zeros: int
    zeros: int


def unit(operation: Operation) -> int:
    """Return how many bytes of the target belong together; raise IntegrityError where there cannot be any."""
    kind, given = operation.kind, operation.arguments
    if kind in (BLOCKS, NEW_BLOCKS):
        found = _layout(operation).nbytes
    elif kind == WORDS:
        found = given[0]
    elif kind == GRID:
        found = given[1] * (BLOCK // 2 if given[0] == FOUR_BITS else 1)
    else:
        found = 1
    wrong = (kind == WORDS and given[0] not in (2, 4)) or (kind == GRID and not _possible(Grids(*given[:7])))
    if wrong or operation.length % found:
        raise IntegrityError(f"a delta asks for {operation.length} bytes of weights that come in {found}")
    return found


def _possible(said: Grids) -> bool:
    most = {EIGHT_BITS: PIECE, FOUR_BITS: PIECE // BLOCK}.get(said.bits, 0)
    return 0 < said.columns <= most and said.width in (2, 4)


def pieces(operation: Operation) -> Iterator[tuple[int, int]]:
    """Yield start and end of each piece within the operation's bytes."""
    whole = unit(operation)
    weights = _layout(operation).weights if operation.kind in (BLOCKS, NEW_BLOCKS) else 1
    if operation.kind == GRID:
        weights = whole * 8 // operation.arguments[0]
    step = max(PIECE // weights, 1) * whole
    for start in range(0, operation.length, step):
        yield start, min(start + step, operation.length)


def follow(
    operation: Operation, piece: tuple[int, int], files: tuple[Read, Read], actual: Bytes | None, coder: Coder
) -> Bytes:
    """Return a piece of the target; `files` read the base and what there is of the target."""
    (start, end), (read, _) = piece, files
    kind = operation.kind
    if kind == NEW_BLOCKS:
        base = np.zeros(end - start, np.uint8)
    else:
        base = read(operation.base + start, end - start)
    if kind == BYTES:
        return coder.near(CODES, base, actual)
    rows = base.reshape(-1, unit(operation))
    known = None if actual is None else actual.reshape(rows.shape)
    if kind == WORDS:
        return follow_words(rows, known, coder).reshape(-1)
    if kind == GRID:
        return _follow_grid(operation, start, files, (rows, known), coder)
    return follow_blocks(_layout(operation), rows, known, coder).reshape(-1)


def _follow_grid(
    operation: Operation,
    start: int,
    files: tuple[Read, Read],
    codes: tuple[Bytes, Bytes | None],
    coder: Coder,
) -> Bytes:
    said, (old, new) = Grids(*operation.arguments[:7]), codes
    rows = start // old.shape[1], len(old)
    grids = (
        _grid(said, rows, files[0], (said.base_scales, said.base_zeros)),
        _grid(said, rows, files[1], (said.scales, said.zeros)),
    )
    if said.bits == EIGHT_BITS:
        foretold = regridded(old[:, :, None], grids, 0, 256)[:, :, 0]
        return coder.near(CODES, foretold, new).reshape(-1)
    foretold = regridded(nibbles(old.reshape(-1, 1, BLOCK // 2)), grids, 0, 16)
    made = coder.near(CODES, foretold, None if new is None else nibbles(new.reshape(-1, 1, BLOCK // 2)))
    return packed_nibbles(made).reshape(-1)


def _grid(said: Grids, rows: tuple[int, int], read: Read, places: tuple[int, int]) -> Grid:
    """Return the grid of some rows; a scale and a zero for each column, or for each block of a row."""
    (first, count), (scales, zeros) = rows, places
    columns, wide = said.columns, f"<f{said.width}"
    if said.bits == EIGHT_BITS:
        scale = read(scales, columns * said.width).view(wide)[None]
        zero = read(zeros, columns)[None]
    else:
        scale = read(scales + first * columns * said.width, count * columns * said.width).view(wide)[:, None]
        half = (columns + 1) // 2
        packed = read(zeros + first * half, count * half).reshape(count, half)
        zero = nibbles(packed[:, :, None]).reshape(count, -1)[:, :columns].reshape(-1, 1)
    with np.errstate(all="ignore"):
        scale = scale.astype(np.float32)
        return Grid(scale, scale * zero.astype(np.float32))


def _layout(operation: Operation) -> Layout:
    if operation.arguments[0] >= len(NAMES):
        raise IntegrityError(f"a delta asks for layout {operation.arguments[0]}, which there is not")
    return LAYOUTS[NAMES[operation.arguments[0]]]

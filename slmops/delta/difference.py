"""How a model's weights follow from another's: each field is foretold, and what is off is coded.

Pure numpy. It is written once for both directions: a coder's `near` takes what is foretold and, where it is
known, what is; it returns what is. Knows no files, no tables of shares, no names of tensors.

A code is foretold as the base's weight divided by the new scale: where a block's scale moved, or changed its
sign, most codes are then right although each of them changed.

Laws: fields come in an order in which whatever is used to foretell the next is known; integers, and single
IEEE operations in float32 on each number by itself, so every machine foretells the same.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slmops.delta.fields import CODEBOOK, Fields, Layout

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

TOP, SCALES, LEASTS, CODES, ESCAPES = 0, 3, 4, 7, 8
"""Streams. From TOP on: the highest bytes of words; for each lower byte two, of small and of large words."""

FRACTION = 12
"""Bits behind the point of a ratio that codes are multiplied with."""
STEEPEST, FURTHEST = np.float32(4), np.float32(512)
"""Beyond these a block was made anew, and foretells nothing."""
_SIGN = np.uint8(128)
_ONE, _HALF = np.int32(1 << FRACTION), np.int32(1 << (FRACTION - 1))
_NEAREST = np.abs(np.arange(-128, 128)[:, None] - CODEBOOK).argmin(axis=1).astype(np.uint8)
"""Index in the codebook of what is nearest to -128..127."""


class Coder(Protocol):
    """Codes what lies between the foretold and the actual."""

    def near(self, stream: int, foretold: Bytes, actual: Bytes | None) -> Bytes:
        """Return what is: `actual`, or where that is None, what was coded."""
        ...


@dataclass(frozen=True)
class Grid:
    """Where codes of a part of the weights lie: a weight is scale * (code - middle) - least."""

    scales: Floats
    """(n, parts), like `leasts`."""
    leasts: Floats | None = None


def follow_blocks(layout: Layout, base: Bytes, target: Bytes | None, coder: Coder) -> Bytes:
    """Return the target's blocks (n, nbytes), which follow from as many of the base's, of the same type."""
    old = layout.split(base)
    new: Sequence[Bytes | None] = [None] * len(old) if target is None else layout.split(target)
    words = None if new[0] is None else new[0].reshape(-1, 2)
    halves = follow_words(old.halves.reshape(-1, 2), words, coder).reshape(old.halves.shape)
    before, after = _floats(old.halves), _floats(halves)
    scales, leasts = old.scales, old.leasts
    if scales.shape[1]:
        steps = _ratio(before[:, :1], after[:, :1])
        foretold = _rescaled(scales[:, None], steps, None, layout.scale_middle, layout.scale_codes)
        scales = coder.near(SCALES, foretold[:, 0], new[1])
    if leasts.shape[1]:
        steps = _ratio(before[:, 1:], after[:, 1:])
        foretold = _rescaled(leasts[:, None], steps, None, 0, layout.scale_codes)
        leasts = coder.near(LEASTS, foretold[:, 0], new[2])
    grids = _grid(layout, before, old.scales, old.leasts), _grid(layout, after, scales, leasts)
    codes = coder.near(CODES, _foretold_codes(layout, old.codes, grids), new[3])
    made = np.empty_like(base)
    layout.join(Fields(halves, scales, leasts, codes), made)
    return made


def _foretold_codes(layout: Layout, codes: Bytes, grids: tuple[Grid, Grid]) -> Bytes:
    if layout.lattice:
        return codes
    if layout.codebook:
        return _rechosen(codes, _ratio(grids[0].scales, grids[1].scales))
    return regridded(codes, grids, layout.middle, layout.codes)


def follow_words(base: Bytes, target: Bytes | None, coder: Coder) -> Bytes:
    """Return floats of 2 or 4 bytes (n, width), little-endian: near in magnitude, mostly the same in sign."""
    width = base.shape[1]
    magnitude = np.int32((1 << (8 * width - 1)) - 1)
    old, signs = _words(base) & magnitude, base[:, -1] & _SIGN
    planes: Sequence[Bytes | None] = [None] * width
    if target is not None:
        folded = _folded((_words(target) & magnitude) - old, width) & magnitude
        top, *lower = _planes(folded, width)
        planes = [top | (target[:, -1] & _SIGN) ^ signs, *lower]
    top = coder.near(TOP, np.zeros(len(base), np.uint8), planes[0])
    folded = (top & ~_SIGN).astype(np.int32)
    for place, plane in enumerate(planes[1:]):
        folded = folded << np.int32(8) | _lower(folded, plane, TOP + 1 + 2 * place, coder)
    apart = (folded >> np.int32(1)) ^ -(folded & np.int32(1))
    made = _planes((old + apart) & magnitude, width)
    made[0] |= (top & _SIGN) ^ signs
    return np.stack(made[::-1], axis=1)


def _lower(higher: Integers, plane: Bytes | None, stream: int, coder: Coder) -> Bytes:
    """Return the next lower bytes of words: those of small words are coded by themselves."""
    found = np.empty(len(higher), np.uint8)
    large = higher != 0
    for place, some in enumerate((~large, large)):
        zeros = np.zeros(int(np.count_nonzero(some)), np.uint8)
        if len(zeros):
            found[some] = coder.near(stream + place, zeros, None if plane is None else plane[some])
    return found


def _folded(apart: Integers, width: int) -> Integers:
    """Return 0, 1, 2, ... for 0, -1, 1, ...; differences go round within the bits of a magnitude."""
    unused = np.int32(33 - 8 * width)
    signed = (apart << unused) >> unused
    return (signed << np.int32(1)) ^ (signed >> np.int32(31))


def _planes(words: Integers, width: int) -> list[Bytes]:
    """Return the bytes of words (n,), the highest first."""
    return [(words >> np.int32(8 * place)).astype(np.uint8) for place in reversed(range(width))]


def regridded(codes: Bytes, grids: tuple[Grid, Grid], middle: int, count: int) -> Bytes:
    """Return codes (n, parts, weights) on the first grid as the nearest of 0..count-1 on the second."""
    was, now = grids
    moved = None
    if was.leasts is not None and now.leasts is not None:
        with np.errstate(all="ignore"):
            moved = _ratio(now.leasts - was.leasts, now.scales)
    return _rescaled(codes, _ratio(was.scales, now.scales), moved, middle, count)


def _rescaled(codes: Bytes, ratio: Floats, moved: Floats | None, middle: int, count: int) -> Bytes:
    """Return codes (n, parts, weights) on another grid: (code - middle) * ratio + moved + middle, 0..count-1.

    `ratio` and `moved` (n or 1, parts) say how much finer that grid is, and how many of its steps lower.
    """
    shape = len(codes), ratio.shape[1]
    steps = np.broadcast_to(_fixed(ratio, STEEPEST), shape)
    offset = np.broadcast_to(_fixed(np.float32(0) if moved is None else moved, FURTHEST), shape)
    rows = ((steps != _ONE) | (offset != 0)).any(axis=1)
    if not rows.any():
        return codes
    changed = slice(None) if rows.all() else np.flatnonzero(rows)
    found = codes[changed].astype(np.int32)
    found -= np.int32(middle)
    found *= steps[changed][:, :, None]
    found += (offset[changed] + _HALF)[:, :, None]
    found >>= np.int32(FRACTION)
    found += np.int32(middle)
    made = codes.copy()
    made[changed] = np.clip(found, 0, count - 1, out=found)
    return made


def _rechosen(codes: Bytes, ratio: Floats) -> Bytes:
    """Return indices of a codebook whose values are nearest to what they were, times `ratio`."""
    steps = _fixed(ratio, STEEPEST)
    rows = np.flatnonzero((steps != _ONE).any(axis=1))
    found = CODEBOOK[codes[rows]] * steps[rows][:, :, None] + _HALF >> np.int32(FRACTION)
    made = codes.copy()
    made[rows] = _NEAREST[np.clip(found, -128, 127) + 128]
    return made


def _fixed(ratio: Floats | np.float32, most: np.float32) -> Integers:
    return np.asarray(np.rint(np.clip(ratio, -most, most) * np.float32(_ONE)), np.int32)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return their quotient; where there is none, 1 for two equal numbers, else 0."""
    with np.errstate(all="ignore"):
        quotient = numerator / denominator
    none = (numerator == denominator).astype(np.float32)
    return np.where(np.isfinite(quotient), quotient, none)


def _grid(layout: Layout, halves: Floats, scales: Bytes, leasts: Bytes) -> Grid:
    with np.errstate(all="ignore"):
        scale, least = halves[:, :1], halves[:, 1:] * np.float32(layout.sign)
        if scales.shape[1]:
            scale = scale * (scales.astype(np.float32) - np.float32(layout.scale_middle))
        if leasts.shape[1]:
            least = least * leasts.astype(np.float32)
    return Grid(scale, least if least.shape[1] else None)


def _floats(halves: Bytes) -> Floats:
    """Return float16 numbers (n, how many, 2 bytes) as float32 (n, how many)."""
    return np.ascontiguousarray(halves).view("<f2")[:, :, 0].astype(np.float32)


def _words(numbers: Bytes) -> Integers:
    wide = np.zeros((len(numbers), 4), np.uint8)
    wide[:, : numbers.shape[1]] = numbers
    return wide.view("<i4")[:, 0].astype(np.int32)

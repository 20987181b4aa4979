"""Differences of foretold and actual bytes as symbols: one, two, four or eight in each.

Pure numpy. Where little changed, eight differences share a symbol: a table then knows how they come
together, and a coder has an eighth of the work. A difference that its digit cannot hold is an escape, and
stands in a stream of its own.

Laws: unpacked(packed(differences)) == differences, for any bytes and each grouping.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

GROUPINGS = (1, 2, 4, 8)
"""Differences in a symbol."""
_ESCAPED = 128
"""What stands in a lookup for a difference that is an escape."""


def folded(differences: Bytes) -> Bytes:
    """Return 0, 1, 2, 3, ... for differences of 0, -1, 1, -2, ..., modulo 256."""
    signed = differences.view(np.int8)
    return ((signed << np.int8(1)) ^ (signed >> np.int8(7))).view(np.uint8)


def unfolded(numbers: Bytes) -> Bytes:
    """Return what `folded` was given."""
    odd = (numbers & np.uint8(1)).view(np.int8)
    return (numbers >> np.uint8(1)) ^ (-odd).view(np.uint8)


def packed(differences: Bytes, grouping: int) -> tuple[Bytes, Bytes]:
    """Return differences (n,) as symbols and escapes."""
    numbers = folded(differences)
    if grouping == 1:
        return numbers, numbers[:0]
    bits = 8 // grouping
    most = (1 << bits) - 1
    digits = np.zeros(-(-len(numbers) // grouping) * grouping, np.uint8)
    np.minimum(numbers, most, out=digits[: len(numbers)])
    symbols = np.zeros(len(digits) // grouping, np.uint8)
    for place in range(grouping):
        symbols |= digits[place::grouping] << np.uint8(bits * place)
    return symbols, numbers[numbers >= most] - np.uint8(most)


def unpacked(symbols: Bytes, grouping: int, count: int, escapes: Callable[[int], Bytes]) -> Bytes:
    """Return `count` differences; `escapes(n)` returns the escapes, once it is known how many there are."""
    if grouping == 1:
        return unfolded(symbols[:count])
    found = np.take(_LOOKUPS[grouping], symbols, mode="clip").view(np.uint8)[:count]
    places = np.flatnonzero(found == _ESCAPED)
    if len(places):
        beyond = np.uint8((1 << 8 // grouping) - 1)
        found[places] = unfolded((escapes(len(places)) + beyond).astype(np.uint8))
    return found


def _lookup(grouping: int) -> npt.NDArray[np.unsignedinteger]:
    bits = 8 // grouping
    most = (1 << bits) - 1
    shifts = np.arange(grouping, dtype=np.uint8) * np.uint8(bits)
    digits: Bytes = (np.arange(256, dtype=np.uint8)[:, None] >> shifts & np.uint8(most)).astype(np.uint8)
    found = np.where(digits == most, np.uint8(_ESCAPED), unfolded(digits))
    return np.ascontiguousarray(found).view(f"u{grouping}")[:, 0]


_LOOKUPS = {grouping: _lookup(grouping) for grouping in GROUPINGS[1:]}

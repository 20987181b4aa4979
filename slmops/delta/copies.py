"""Find the runs of bytes that two files have in common, wherever they lie.

Pure numpy, operator side. A run is found where GRAM bytes of it are the same, and then followed to its end.
Of several places, the one is taken that goes on where the last run ended, or else the first.

Laws: runs come in the target's order and do not overlap; every run is the same bytes in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

GRAM = 8
LEAST = 12
"""Bytes that a run must have: an operation takes about half as many."""
_NEAR = 64
"""How far behind the end of the last run the next one is looked for first."""


class Run(NamedTuple):
    """Bytes that are the same in both."""

    target: int
    base: int
    length: int


def runs(base: Bytes, target: Bytes) -> Iterator[Run]:
    """Yield the runs that `target` shares with `base`."""
    known, wanted = _grams(base), _grams(target)
    order = np.argsort(known, kind="stable")
    ranks = np.searchsorted(known[order], wanted)
    first = order[np.minimum(ranks, len(order) - 1)] if len(order) else order
    anywhere = known[first] == wanted if len(order) else np.zeros(len(wanted), bool)
    place = expected = 0
    while place < len(wanted):
        at = _near(known, wanted[place], expected)
        if at < 0:
            if not anywhere[place]:
                ahead = np.flatnonzero(anywhere[place : place + _NEAR])
                place += int(ahead[0]) if len(ahead) else _NEAR
                continue
            at = int(first[place])
        length = _same(base[at:], target[place:])
        if length < LEAST:
            place += 1
            continue
        yield Run(place, at, length)
        place, expected = place + length, at + length


def _near(known: npt.NDArray[np.uint64], gram: np.uint64, expected: int) -> int:
    found = np.flatnonzero(known[expected : expected + _NEAR] == gram)
    return expected + int(found[0]) if len(found) else -1


def _grams(data: Bytes) -> npt.NDArray[np.uint64]:
    """Return the GRAM bytes from each place on, as one number."""
    count = max(len(data) - GRAM + 1, 0)
    grams = np.zeros(count, np.uint64)
    for place in range(GRAM):
        grams |= data[place : place + count].astype(np.uint64) << np.uint64(8 * place)
    return grams


def _same(one: Bytes, other: Bytes) -> int:
    """Return how many bytes are the same from the beginning."""
    most, step, start = min(len(one), len(other)), 256, 0
    while start < most:
        end = min(start + step, most)
        apart = np.flatnonzero(one[start:end] != other[start:end])
        if len(apart):
            return start + int(apart[0])
        start, step = end, step * 4
    return most

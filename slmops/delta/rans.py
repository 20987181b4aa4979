"""Range asymmetric numeral systems in numpy: many lanes, each of which codes one symbol while the others do.

Pure: symbols in, words out, and back. Knows no models and no files. A byte-sized symbol costs log2 of the
inverse of its share in a table (J. Duda, arXiv 1311.2540). A lane's state lies between LEAST and
LEAST << 32 and takes or gives 32 bits at a time, so that few lanes do in any one step: that is what makes
numpy fast enough.

Laws: what is coded is decoded backwards, so an encoder is fed from the end; integers alone, so every
machine decodes the same; after the last symbol each lane is back at LEAST, or the words were not these.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from slmops.errors import IntegrityError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.int64]

PRECISION = 12
WHOLE = 1 << PRECISION
"""What the shares of a table add up to."""
LEAST = 1 << 16
WORD = 32
MOST_LANES = 8192
STATE_BYTES = 6


def shares(counts: Numbers) -> Numbers:
    """Return `counts` (256, not all zero) scaled to add up to WHOLE; what was seen keeps one part or more."""
    seen = counts > 0
    scaled = np.where(seen, np.maximum(counts * WHOLE // counts.sum(), 1), 0)
    while (over := int(scaled.sum()) - WHOLE) > 0:
        largest = np.argsort(-scaled, kind="stable")[: max(1, np.count_nonzero(scaled > 1) // 2)]
        largest = largest[scaled[largest] > 1][:over]
        scaled[largest] -= 1
    scaled[np.argmax(counts)] -= over
    return scaled


class Encoder:
    """Codes from the end: the last symbols of the last call are the first that a decoder returns."""

    def __init__(self, lanes: int, sink: Callable[[bytes], None]) -> None:
        """Begin; `sink` takes bytes that a decoder reads in the opposite order of these calls."""
        self._states, self._sink = np.full(lanes, LEAST, np.int64), sink

    def put(self, symbols: Bytes, table: Numbers) -> None:
        """Code symbols (n,) that all have a share in `table` (256,)."""
        if len(symbols) and table[symbols[0]] == WHOLE:
            return
        lanes, firsts = len(self._states), np.cumsum(table) - table
        for start in reversed(range(0, len(symbols), lanes)):
            some = symbols[start : start + lanes]
            states, share = self._states[: len(some)], table[some]
            full = np.flatnonzero(states >> (WORD + 16 - PRECISION) >= share)
            if len(full):
                self._sink(states[full].astype("<u4").tobytes())
                states[full] >>= WORD
            parts, rest = np.divmod(states, share)
            states[:] = (parts << PRECISION) + rest + firsts[some]

    def finish(self) -> None:
        """Give the states that a decoder begins with."""
        self._sink(self._states.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :STATE_BYTES].tobytes())


class Decoder:
    """Returns symbols in the order in which they were meant; takes words as it needs them."""

    def __init__(self, states: bytes, words: Callable[[int], Words]) -> None:
        """Begin with the states that an encoder ended with; `words(n)` returns the next n words."""
        filled = np.zeros((len(states) // STATE_BYTES, 8), np.uint8)
        filled[:, :STATE_BYTES] = np.frombuffer(states, np.uint8).reshape(-1, STATE_BYTES)
        self._states = filled.view("<i8").reshape(-1).astype(np.int64)
        self._words = words
        self._parts, self._entries = np.empty_like(self._states), np.empty_like(self._states)

    def get(self, count: int, table: Numbers) -> Bytes:
        """Return the next `count` symbols, coded with the lookup of their table."""
        if table[0] >> WORD == WHOLE:
            return np.full(count, table[0] & 255, np.uint8)
        lanes, symbols = len(self._states), np.empty(count, np.uint8)
        if not lanes:
            raise IntegrityError("a delta has no lane in which the numbers of its weights could stand")
        for start in range(0, count, lanes):
            some = symbols[start : start + lanes]
            states, parts, entries = (
                each[: len(some)] for each in (self._states, self._parts, self._entries)
            )
            np.bitwise_and(states, WHOLE - 1, out=parts)
            np.take(table, parts, out=entries, mode="clip")
            some[:] = entries  # its lowest byte
            np.right_shift(states, PRECISION, out=states)
            np.right_shift(entries, WORD, out=parts)
            states *= parts
            np.right_shift(entries, 8, out=entries)
            np.bitwise_and(entries, WHOLE - 1, out=entries)
            states += entries
            empty = np.flatnonzero(states < LEAST)
            if len(empty):
                states[empty] = states[empty] << WORD | self._words(len(empty))
        return symbols

    def finish(self) -> None:
        """Raise IntegrityError unless all symbols were read that were coded, and rightly."""
        if (self._states != LEAST).any():
            raise IntegrityError("a delta's coded numbers do not end where they should")


def lookup(table: Numbers) -> Numbers:
    """Return (WHOLE,) for each part of the whole: symbol, place within its share << 8, share << 32."""
    symbols = np.repeat(np.arange(256), table)
    places = np.arange(WHOLE) - (np.cumsum(table) - table)[symbols]
    return np.asarray(symbols | places << 8 | table[symbols] << WORD)

"""Which shares the symbols of a delta are coded with: counted, and then as few tables as pay for themselves.

Pure numpy, operator side. A table costs bytes in the delta; two streams that are alike share one.

Laws: a table has a share for every symbol of every stream that uses it.
"""

from __future__ import annotations

import numpy as np

from slmops.delta.rans import Numbers, shares

TABLE_BITS, SHARE_BITS = 16, 10
"""What a table costs in a delta, and each symbol that it has a share for: measured."""
NEARLY_UNIFORM = 7.97
"""Bits of a symbol from which on a byte may as well stand as it is."""
MOST_COMPARED = 64


def bits(counts: Numbers) -> float:
    """Return what coding the counted symbols takes with shares of their own."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * (np.log2(seen.sum()) - np.log2(seen))).sum()) if len(seen) else 0.0


def table_bits(counts: Numbers) -> float:
    """Return what a table for these symbols takes in the delta."""
    return TABLE_BITS + SHARE_BITS * float(np.count_nonzero(counts))


class Tables:
    """Tables that fill up as streams come."""

    def __init__(self) -> None:
        self._counts: list[Numbers] = []
        self._bits: list[float] = []

    def number(self, counts: Numbers) -> int:
        """Return the number of the table for a stream: one that is there, or a new one; 0 for none at all."""
        total = int(counts.sum())
        own = bits(counts)
        if not total or own > NEARLY_UNIFORM * total:
            return 0
        best, least = -1, table_bits(counts)
        for number in range(max(0, len(self._counts) - MOST_COMPARED), len(self._counts)):
            both = self._counts[number] + counts
            more = bits(both) + table_bits(both) - table_bits(self._counts[number]) - self._bits[number] - own
            if more < least:
                best, least = number, more
        if best < 0:
            self._counts.append(counts.copy())
            self._bits.append(own)
            return len(self._counts)
        self._counts[best] += counts
        self._bits[best] = bits(self._counts[best])
        return best + 1

    def finish(self) -> list[Numbers]:
        """Return the shares of each table, the first of which has the number 1."""
        return [shares(counts) for counts in self._counts]

    def coded_bytes(self) -> float:
        """Return what all streams take together, tables apart."""
        return sum(self._bits) / 8

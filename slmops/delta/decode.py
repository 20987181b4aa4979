"""Decode what lies between weights that were foretold and weights that are.

The device's side of `difference.Coder`. Knows tables and sections, no files.

Laws: memory is bounded by the tables that are kept ready; what cannot be is an IntegrityError.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from slmops.delta import delta, rans
from slmops.delta.delta import Operation
from slmops.delta.difference import CODES, ESCAPES
from slmops.delta.sections import Section, Words
from slmops.delta.symbols import GROUPINGS, unfolded, unpacked
from slmops.errors import IntegrityError

Bytes = npt.NDArray[np.uint8]

LOOKUPS_KEPT = 128
"""Tables that are kept ready: 32 KiB each."""


class Decoding:
    """Returns what was coded: symbols by their tables, or bytes as they are where no table would help."""

    def __init__(self, lanes: int, tables: bytes, coded: Section, as_is: Section) -> None:
        self._tables = delta.parse_tables(tables, rans.WHOLE)
        self._lookups: OrderedDict[int, rans.Numbers] = OrderedDict()
        if lanes > rans.MOST_LANES:
            raise IntegrityError(f"a delta wants {lanes} lanes, at most {rans.MOST_LANES} are allowed")
        states = coded.take(lanes * rans.STATE_BYTES)
        self._decoder, self._as_is = rans.Decoder(states, Words(coded).take), as_is
        self._streams: list[int] = []
        self._grouping = 1

    def turn_to(self, operation: Operation) -> None:
        """Use the tables of `operation` from now on."""
        self._grouping, *self._streams = operation.arguments[-1 - len(delta.STREAMS) :]
        if self._grouping not in GROUPINGS or max(self._streams) > len(self._tables):
            raise IntegrityError("a delta asks for a table or a grouping that it does not have")

    def near(self, stream: int, foretold: Bytes, _actual: Bytes | None) -> Bytes:
        """Return what was coded in `stream`, whose difference to `foretold` comes next."""
        count = foretold.size
        if stream == CODES:
            symbols = self._symbols(CODES, -(-count // self._grouping))
            differences = unpacked(
                symbols, self._grouping, count, lambda escapes: self._symbols(ESCAPES, escapes)
            )
        else:
            differences = unfolded(self._symbols(stream, count))
        differences = differences.reshape(foretold.shape)
        differences += foretold
        return differences

    def finish(self) -> None:
        """Raise IntegrityError unless all that was coded has been read."""
        self._decoder.finish()

    def _symbols(self, stream: int, count: int) -> Bytes:
        number = self._streams[stream]
        if not number:
            return np.frombuffer(self._as_is.take(count), np.uint8)
        if number not in self._lookups:
            table = self._tables[number - 1]
            self._lookups[number] = rans.lookup(np.array(table, np.int64))
            if len(self._lookups) > LOOKUPS_KEPT:
                self._lookups.popitem(last=False)
        return self._decoder.get(count, self._lookups[number])

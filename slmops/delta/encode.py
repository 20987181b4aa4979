"""Code what lies between weights that were foretold and weights that are: first counted, then from the end.

The operator's side of `difference.Coder`. Knows tables and symbols, no files but one that is temporary.

Laws: a decoder gets each symbol back in its order; memory does not grow with what is coded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt

from slmops.delta.delta import STREAMS
from slmops.delta.difference import CODES, ESCAPES
from slmops.delta.rans import Numbers
from slmops.delta.symbols import GROUPINGS, folded, packed
from slmops.delta.tables import Tables, bits, table_bits

Bytes = npt.NDArray[np.uint8]

HELD = 4 << 20
NEARLY_LEAST = 1.01
"""A grouping with more differences in a symbol is faster to decode; it may take so many times the bytes."""


class Counting:
    """Counts the symbols that one operation would need, for every grouping."""

    def __init__(self) -> None:
        self._streams = np.zeros((len(STREAMS), 256), np.int64)
        self._grouped = {grouping: np.zeros((2, 256), np.int64) for grouping in GROUPINGS}

    def near(self, stream: int, foretold: Bytes, actual: Bytes | None) -> Bytes:
        """Count what `actual` is away from what was foretold."""
        differences = _differences(foretold, actual)
        if stream != CODES:
            self._streams[stream] += _counted(folded(differences))
        else:
            for grouping, counts in self._grouped.items():
                counts += [_counted(part) for part in packed(differences, grouping)]
        return _known(actual)

    @property
    def bits(self) -> float:
        """Return what the codes take in the grouping that suits them best."""
        return min(self._bits.values())

    def choose(self, tables: Tables) -> tuple[int, ...]:
        """Return the grouping to use, and a table's number for each stream."""
        taken = self._bits
        grouping = max(each for each in GROUPINGS if taken[each] <= min(taken.values()) * NEARLY_LEAST)
        if self._grouped[grouping].any():
            self._streams[[CODES, ESCAPES]] = self._grouped[grouping]
        return grouping, *(tables.number(counts) for counts in self._streams)

    @property
    def _bits(self) -> dict[int, float]:
        return {
            grouping: sum(bits(part) + table_bits(part) for part in counts)
            for grouping, counts in self._grouped.items()
        }


class Recording:
    """Records the symbols of one piece, in the order in which they will be decoded."""

    def __init__(self, grouping: int) -> None:
        self.streams: list[tuple[int, Bytes]] = []
        self._grouping = grouping

    def near(self, stream: int, foretold: Bytes, actual: Bytes | None) -> Bytes:
        """Record what `actual` is away from what was foretold."""
        differences = _differences(foretold, actual)
        if stream == CODES:
            self.streams += zip((CODES, ESCAPES), packed(differences, self._grouping))
        else:
            self.streams.append((stream, folded(differences)))
        return _known(actual)


class Backwards:
    """Bytes that come in the opposite order of how they will be read; more than HELD of them go to disk."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._holds = self.length = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with this
        self._spilt: list[int] = []

    def __enter__(self) -> Backwards:  # noqa: PYI034, typing.Self is not in Python 3.9
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, data: bytes) -> None:
        """Put `data` before all that is there."""
        self._held.append(data)
        self._holds += len(data)
        self.length += len(data)
        if self._holds > HELD:
            self._spilt.append(self._holds)
            self._file.write(b"".join(reversed(self._held)))
            self._held, self._holds = [], 0

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes in the order in which they are read."""
        yield b"".join(reversed(self._held))
        place = sum(self._spilt)
        for length in reversed(self._spilt):
            place -= length
            self._file.seek(place)
            yield self._file.read(length)


def _differences(foretold: Bytes, actual: Bytes | None) -> Bytes:
    return (_known(actual) - foretold).reshape(-1)


def _known(actual: Bytes | None) -> Bytes:
    assert actual is not None  # noqa: S101, whoever encodes knows it
    return actual


def _counted(symbols: Bytes) -> Numbers:
    return np.bincount(symbols, minlength=256)

"""How alike two texts are, by the runs of words they share; and which texts before were like one.

Pure. Words are compared without case, marks and white space; a script without spaces, sign by sign.

Laws: likeness is symmetric, 1 of a text and itself; `Shelf.near` never names a text that is less like
than `NEAR`, and misses one that is as like as that less than once in a thousand times.
"""

from __future__ import annotations

import re
import unicodedata
import zlib

import numpy as np
from numpy.typing import NDArray

from slmops import digest

NEAR = 0.8
"""Share of runs in common from which on two texts are near duplicates."""
RUN = 3
"""Words of a run."""
BANDS, ROWS = 16, 4
"""A text is found again by any of 16 bands of four minima."""
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_FACTORS = np.array(
    [
        int(digest.hexdigits(digest.of_bytes(f"likeness {number}".encode()))[:16], 16) | 1
        for number in range(BANDS * ROWS)
    ],
    np.uint64,
)

Runs = NDArray[np.uint64]
"""The hashes of a text's runs, sorted, each once."""


def normal(text: str) -> str:
    """Return a text by which exact duplicates are known: without case, and with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Return the words of a text, without case and marks."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def runs(text: str) -> Runs:
    """Return the runs of `RUN` words in a text; of a shorter one, all of it as one."""
    every = words(text)
    count = max(len(every) - RUN + 1, 1)
    hashes = [zlib.crc32(" ".join(every[start : start + RUN]).encode()) for start in range(count)]
    return np.unique(np.array(hashes, np.uint64))


def likeness(one: Runs, other: Runs) -> float:
    """Return the share of runs that two texts have in common, of those that either has (Jaccard)."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class Shelf:
    """Texts that were put by, to be found again by what is like them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._texts: list[Runs] = []
        self._bands: dict[bytes, list[int]] = {}

    def near(self, text: Runs) -> bool:
        """Return whether a text like this one was put by."""
        places = {place for band in _bands(text) for place in self._bands.get(band, ())}
        return any(likeness(text, self._texts[place]) >= NEAR for place in places)

    def put(self, text: Runs) -> None:
        """Put a text by."""
        for band in _bands(text):
            self._bands.setdefault(band, []).append(len(self._texts))
        self._texts.append(text)


def _bands(text: Runs) -> list[bytes]:
    """Return the minima of a text's hashes under many orders, a few of them together (MinHash)."""
    # What is cut off above 64 bits is what mixes them.
    least = ((text[:, None] + np.uint64(1)) * _FACTORS >> np.uint64(32)).min(axis=0)
    rows = least.astype(np.uint32).reshape(BANDS, ROWS)
    return [bytes([number]) + row.tobytes() for number, row in enumerate(rows)]

"""Read the sections of a delta, each from where it lies in the file, in pieces.

Knows files and LZMA, nothing of weights. A dictionary of LZMA can be filled beforehand: LZMA2 has chunks that
are stored as they are, and a piece of the base in such chunks is, to what follows, text that came before.

Laws: no more is read, unpacked or held than was stated and is allowed; what is missing or cannot be unpacked
is an IntegrityError.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from slmops.errors import IntegrityError

Bytes = npt.NDArray[np.uint8]

CHUNK = 1 << 20
DICTIONARY = 4 << 20
DEFLATED = 2048
"""Bytes up to which a section is deflated: LZMA needs a dozen bytes to begin."""
MOST_PREFIXED = 20 << 20
"""Bytes of base and target together that LZMA may hold in memory."""
MOST_UNPACKED = 8 << 20
"""Bytes that operations, or tables, may unpack to."""
_WORDS = 1 << 15
_STORED = 1 << 16
"""Bytes in a chunk of LZMA2 that is stored as it is, at most."""


def filters(dictionary: int) -> list[dict[str, Any]]:
    """Return what LZMA is told to unpack with a dictionary of so many bytes."""
    return [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(dictionary, 4096)}]


def size(file: BinaryIO) -> int:
    """Return how many bytes a file has."""
    return file.seek(0, io.SEEK_END)


def read(file: BinaryIO, place: int, count: int) -> Bytes:
    """Return `count` bytes from `place`."""
    if place < 0 or place + count > size(file):
        raise IntegrityError(f"a delta reads {count} bytes from {place}, beyond what there is")
    file.seek(place)
    return np.frombuffer(file.read(count), np.uint8)


class Section:
    """A section that is read from its beginning to its end."""

    def __init__(self, file: BinaryIO, place: int, length: int) -> None:
        self._file, self._place, self.left = file, place, length

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > self.left:
            raise IntegrityError("a section of a delta is shorter than what is to be read from it")
        self._file.seek(self._place)
        self._place += count
        self.left -= count
        return self._file.read(count)


class Words:
    """Words of 32 bits from a section, a few at a time."""

    def __init__(self, section: Section) -> None:
        self._section, self._ready = section, np.empty(0, np.uint32)

    def take(self, count: int) -> npt.NDArray[np.uint32]:
        """Return the next `count` words."""
        if count > len(self._ready):
            more = self._section.take(min(max(count, _WORDS) * 4, self._section.left) & ~3)
            self._ready = np.concatenate((self._ready, np.frombuffer(more, "<u4").astype(np.uint32)))
        if count > len(self._ready):
            raise IntegrityError("a delta has fewer coded numbers than its weights take")
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken


class Unpacked:
    """What a section unpacks to, a piece at a time; a section that is as long as that is stored as it is."""

    def __init__(self, section: Section, length: int) -> None:
        """Begin; a section that unpacks to no more than DEFLATED bytes is deflated, any other one is LZMA."""
        self._section = section
        self._unpacker: lzma.LZMADecompressor | None = None
        if section.left == length:
            return
        if length > DEFLATED:
            self._unpacker = _unpacker(DICTIONARY)
        else:
            data = _inflated(section.take(section.left), length)
            self._section = Section(io.BytesIO(data), 0, len(data))

    def take(self, count: int) -> Bytes:
        """Return the next `count` bytes."""
        if self._unpacker is None:
            return np.frombuffer(self._section.take(count), np.uint8)
        made = bytearray()
        while len(made) < count:
            more = b""
            if self._unpacker.needs_input:
                more = self._section.take(min(CHUNK, self._section.left))
            made += unpack(self._unpacker, more, count - len(made))
        return np.frombuffer(bytes(made), np.uint8)


def packed(data: bytes) -> bytes:
    """Return `data` as `Unpacked` reads it: packed, or as it is where that is no longer."""
    if len(data) > DEFLATED:
        made = lzma.compress(data, lzma.FORMAT_RAW, filters=filters(DICTIONARY))
    else:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
        made = packer.compress(data) + packer.flush()
    return made if len(made) < len(data) else data


def _inflated(data: bytes, length: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(length, 1))
    except zlib.error as error:
        raise IntegrityError(f"a section of a delta cannot be unpacked: {error}") from None


def unpacked_whole(section: Section, length: int) -> bytes:
    """Return all of a section that unpacks to `length` bytes."""
    if length > MOST_UNPACKED:
        raise IntegrityError(f"a section of a delta would take {length} bytes, at most {MOST_UNPACKED} do")
    return Unpacked(section, length).take(length).tobytes()


def primed_unpacker(before: Callable[[int, int], Bytes], known: int, length: int) -> lzma.LZMADecompressor:
    """Return what unpacks `length` bytes that were packed as if `known` others had come first.

    `before(start, count)` returns some of those others.
    """
    unpacker = _unpacker(known + length)
    for start in range(0, known, _STORED):
        some = before(start, min(_STORED, known - start))
        how = b"\x02" if start else b"\x01"  # stored; the very first one begins with an empty dictionary
        unpack(unpacker, how + (len(some) - 1).to_bytes(2, "big") + some.tobytes(), len(some))
    return unpacker


def unpack(unpacker: lzma.LZMADecompressor, packed: bytes, most: int) -> bytes:
    """Return 1..`most` bytes more."""
    try:
        made = unpacker.decompress(packed, most)
    except (lzma.LZMAError, EOFError) as error:
        raise IntegrityError(f"a section of a delta cannot be unpacked: {error}") from None
    if not made and not packed:
        raise IntegrityError("a section of a delta unpacks to less than it states")
    return made


def _unpacker(dictionary: int) -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters(dictionary))

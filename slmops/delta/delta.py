"""A delta between two files: what stands in its header, and the operations that make the target of the base.

Pure: bytes to values and back. Knows no weights and no coder. After the header come five sections: the
operations, the tables, bytes that stand nowhere in the base (LZMA), bytes as they are, and what the coder
made.

Laws: parse(write(x)) == x; whatever is read, IntegrityError is the only error; no number that is read is
believed before it is compared with what it may be at most.
Runs on devices: Python 3.9.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from slmops.errors import IntegrityError

MAGIC = b"SLM\x01"
"""The last byte is the version of the format."""
SYMBOLS = 256
_MORE, _MOST_BITS = 128, 56
SECTIONS = 5
OPERATIONS, TABLES, FRESH, AS_IS, CODED = range(SECTIONS)
MOST_HEADER = 128

COPY, NEW, PREFIXED, BLOCKS, NEW_BLOCKS, WORDS, BYTES, GRID, GO = range(9)
"""Operations: as in the base; from FRESH; LZMA with a piece of the base before it; weights in blocks, with
and without a base; floats; single bytes; codes whose scales lie elsewhere; go on elsewhere in the target."""
STREAMS = ("top", *(f"lower {place}" for place in range(6)), "codes", "escapes")
"""Each has a table, by its number; 0: its bytes stand as they are. `difference` says which is which."""
ARGUMENTS = {
    COPY: (),
    NEW: (),
    PREFIXED: ("base_length", "stored"),
    BLOCKS: ("layout", "grouping", *STREAMS),
    NEW_BLOCKS: ("layout", "grouping", *STREAMS),
    WORDS: ("width", "grouping", *STREAMS),
    BYTES: ("grouping", *STREAMS),
    GRID: ("bits", "columns", "width", "base_scales", "scales", "base_zeros", "zeros", "grouping", *STREAMS),
    GO: (),
}

BASELESS = (NEW, NEW_BLOCKS, GO)
MOST_OPERATIONS = 1 << 17


class Operation(NamedTuple):
    """What makes some bytes of the target."""

    kind: int
    length: int
    """Bytes of the target; of GO: where to go on."""
    base: int = 0
    """Where in the base it begins."""
    arguments: tuple[int, ...] = ()
    """As ARGUMENTS names them."""


class Header(NamedTuple):
    """What a delta says of itself."""

    base_size: int
    target_size: int
    checksum: int
    """zlib.crc32 of what the operations write, in their order: a delta that is broken is refused at once."""
    lanes: int
    sections: tuple[tuple[int, int], ...]
    """Bytes stored and bytes unpacked of each section: as many where it is not packed, else more."""


def write_header(header: Header) -> bytes:
    """Return the bytes that a delta begins with."""
    said = [header.base_size, header.target_size, header.checksum, header.lanes]
    for stored, unpacked in header.sections:
        said += [stored << 1] if stored == unpacked else [stored << 1 | 1, unpacked - stored]
    return MAGIC + b"".join(map(_number, said))


def parse_header(data: bytes) -> tuple[Header, int]:
    """Return the header that `data` (up to MOST_HEADER bytes of the file) begins with, and its length."""
    if not data.startswith(MAGIC):
        raise IntegrityError(f"not a delta of this version: it begins with {data[:4]!r}, expected {MAGIC!r}")
    numbers = _Numbers(data, len(MAGIC))
    base, target, checksum, lanes = (numbers.next() for _ in range(4))
    sections = list[tuple[int, int]]()
    for _ in range(SECTIONS):
        stored, packed = divmod(numbers.next(), 2)
        sections.append((stored, stored + numbers.next() if packed else stored))
    return Header(base, target, checksum, lanes, tuple(sections)), numbers.place


def checksum_of_place(place: int, checksum: int) -> int:
    """Return the checksum of a target once it goes on at another place: bytes elsewhere are other bytes."""
    return zlib.crc32(place.to_bytes(8, "little"), checksum)


def write_operations(operations: Iterable[Operation]) -> bytes:
    """Return operations as bytes: their kinds, then each kind's lengths, places in the base, and arguments.

    A place is relative to where the operation before ended. Numbers of one sort together pack well.
    """
    kinds, rows, expected = bytearray(), dict[int, list[tuple[int, ...]]](), 0
    for kind, length, base, arguments in operations:
        row = [length]
        if kind not in BASELESS:
            apart, expected = base - expected, base + length
            row.append(apart << 1 if apart >= 0 else -apart << 1 | 1)
        kinds.append(kind)
        rows.setdefault(kind, []).append((*row, *arguments))
    made = _number(len(kinds)) + bytes(kinds)
    for kind in sorted(rows):
        made += b"".join(_number(value) for column in zip(*rows[kind]) for value in column)
    return made


def parse_operations(data: bytes) -> Iterator[Operation]:
    """Yield the operations in `data`."""
    numbers, expected = _Numbers(data, 0), 0
    count = numbers.next()
    kinds = numbers.bytes(count)
    if count > MOST_OPERATIONS or any(kind not in ARGUMENTS for kind in kinds):
        raise IntegrityError("a delta asks for operations that there are not, or for too many")
    rows = dict[int, Iterator[tuple[int, ...]]]()
    for kind in sorted(set(kinds)):
        width = 1 + (kind not in BASELESS) + len(ARGUMENTS[kind])
        found = [[numbers.next() for _ in range(kinds.count(kind))] for _ in range(width)]
        rows[kind] = zip(*found)
    for kind in kinds:
        length, *others = next(rows[kind])
        base = 0
        if kind not in BASELESS:
            apart = others.pop(0)
            base = expected + (-(apart >> 1) if apart & 1 else apart >> 1)
            expected = base + length
        yield Operation(kind, length, base, tuple(others))


def write_tables(tables: Iterable[Iterable[int]]) -> bytes:
    """Return tables of 256 shares each as bytes."""
    made = bytearray()
    for table in tables:
        zeros = 0
        for share in table:
            if share:
                if zeros:
                    made += _number(0) + _number(zeros)
                made += _number(share)
            zeros = 0 if share else zeros + 1
        if zeros:
            made += _number(0) + _number(zeros)
    return bytes(made)


def parse_tables(data: bytes, whole: int) -> list[list[int]]:
    """Return the tables in `data`; the shares of each add up to `whole`."""
    numbers, tables = _Numbers(data, 0), list[list[int]]()
    while numbers.place < len(data):
        table = list[int]()
        while len(table) < SYMBOLS:
            share = numbers.next()
            table += [share] if share else [0] * min(numbers.next(), SYMBOLS + 1)
        if len(table) != SYMBOLS or sum(table) != whole:
            raise IntegrityError("a delta's table of shares does not add up")
        tables.append(table)
    return tables


class _Numbers:
    """Reads numbers of seven bits a byte, the lowest first."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self.place = data, place

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self._data) - self.place:
            raise IntegrityError("a delta ends before what it states")
        self.place += count
        return self._data[self.place - count : self.place]

    def next(self) -> int:
        """Return the next number."""
        found = shift = 0
        while True:
            if self.place >= len(self._data) or shift > _MOST_BITS:
                raise IntegrityError("a delta ends within a number, or a number in it does not end")
            byte = self._data[self.place]
            self.place += 1
            found |= (byte & ~_MORE) << shift
            shift += 7
            if not byte & _MORE:
                return found


def _number(value: int) -> bytes:
    made = bytearray()
    while value >= _MORE:
        made.append(value % _MORE | _MORE)
        value >>= 7
    made.append(value)
    return bytes(made)

"""Where the weights of a model file lie, by name: GGUF and ONNX, read from their headers alone.

Operator side. Walks both formats by itself; knows neither the gguf nor the onnx package, and no deltas. A
file that is neither, or that is broken, has no regions: it is then bytes like any other.

Laws: regions lie in the file, in order, and do not overlap; no weights are read.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BYTES = "bytes"
GGML = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""ggml's types by number: name, weights and bytes of a block."""
ONNX = {1: "F32", 2: "U8", 3: "I8", 10: "F16", 16: "BF16"}
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a GGUF value by its type; 8 is a string, 9 an array."""
_STRING, _ARRAY = 8, 9
MOST_TEXT = 1 << 16


class Region(NamedTuple):
    """The bytes of one tensor."""

    name: str
    form: str
    place: int
    length: int
    shape: tuple[int, ...]
    """Rows first."""


class _BrokenError(Exception):
    """A file does not go on as its format says."""


def regions(file: BinaryIO) -> list[Region]:
    """Return where the tensors of a file lie; none, if it is no model file that can be read."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        found = list(_gguf(file) if file.read(4) == b"GGUF" else _onnx(file, size))
    except (_BrokenError, struct.error, ValueError, OverflowError, OSError):
        return []
    found = sorted((region for region in found if region.length), key=lambda region: region.place)
    ends = [0, *(region.place + region.length for region in found)]
    apart = all(region.place >= end for region, end in zip(found, ends))
    return found if apart and ends[-1] <= size else []


def _gguf(file: BinaryIO) -> Iterator[Region]:
    version, tensors, keys = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        raise _BrokenError
    alignment = 32
    for _ in range(keys):
        name, value = _text(file), _value(file)
        if name == "general.alignment" and value:
            alignment = value
    listed = []
    for _ in range(tensors):
        name, (count,) = _text(file), struct.unpack("<I", file.read(4))
        if count > 8:  # noqa: PLR2004
            raise _BrokenError
        shape = struct.unpack(f"<{count}Q", file.read(8 * count))
        listed.append((name, shape[::-1], *struct.unpack("<IQ", file.read(12))))
    start = -(-file.tell() // alignment) * alignment
    for name, shape, kind, place in listed:
        if kind in GGML:
            form, weights, nbytes = GGML[kind]
            yield Region(name, form, start + place, _product(shape) // weights * nbytes, shape)


def _value(file: BinaryIO) -> int:
    """Go past a value; return it where it is a number of 32 bits."""
    (kind,) = struct.unpack("<I", file.read(4))
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _SCALARS:
            file.seek(count * _SCALARS[inner], io.SEEK_CUR)
        for _ in range(0 if inner in _SCALARS else count):
            _skip_text(file, inner)
        return 0
    if kind in _SCALARS:
        data = file.read(_SCALARS[kind])
        return int.from_bytes(data, "little") if kind == 4 else 0  # noqa: PLR2004
    _skip_text(file, kind)
    return 0


def _skip_text(file: BinaryIO, kind: int) -> None:
    if kind != _STRING:
        raise _BrokenError
    (count,) = struct.unpack("<Q", file.read(8))
    file.seek(count, io.SEEK_CUR)


def _text(file: BinaryIO) -> str:
    (count,) = struct.unpack("<Q", file.read(8))
    if count > MOST_TEXT:
        raise _BrokenError
    return file.read(count).decode()


def _onnx(file: BinaryIO, size: int) -> Iterator[Region]:
    """Yield the initializers of a ModelProto whose numbers are in its `raw_data`.

    Numbers of fields: ModelProto.graph 7, GraphProto.initializer 5, TensorProto dims 1, data_type 2, name 8,
    raw_data 9 (onnx.proto).
    """
    for number, place, length in _fields(file, 0, size):
        if number == 7:  # noqa: PLR2004
            for inner, start, count in _fields(file, place, place + length):
                if inner == 5:  # noqa: PLR2004
                    yield from _initializer(file, start, start + count)


def _initializer(file: BinaryIO, start: int, end: int) -> Iterator[Region]:
    shape, kind, name, raw = list[int](), 0, "", (0, 0)
    for number, place, length in _fields(file, start, end):
        if number == 1:
            shape += [place] if length < 0 else _varints(file, place, place + length)
        elif number == 2:  # noqa: PLR2004
            kind = place
        elif number == 8:  # noqa: PLR2004
            file.seek(place)
            name = file.read(min(length, MOST_TEXT)).decode()
        elif number == 9:  # noqa: PLR2004
            raw = place, length
    yield Region(name, ONNX.get(kind, BYTES), *raw, tuple(shape))


def _fields(file: BinaryIO, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield fields of a protobuf message: number, place and length; of a bare number the value and -1."""
    while place < end:
        key, place = _varint(file, place)
        wire = key & 7
        if wire == 0:
            value, place = _varint(file, place)
            yield key >> 3, value, -1
            continue
        if wire == 2:  # noqa: PLR2004
            length, place = _varint(file, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _BrokenError
        if place + length > end:
            raise _BrokenError
        yield key >> 3, place, length
        place += length


def _varints(file: BinaryIO, place: int, end: int) -> list[int]:
    found = []
    while place < end:
        value, place = _varint(file, place)
        found.append(value)
    return found


def _varint(file: BinaryIO, place: int) -> tuple[int, int]:
    file.seek(place)
    value = 0
    for shift, byte in enumerate(file.read(10)):
        value |= (byte & 127) << 7 * shift
        if byte < 128:  # noqa: PLR2004
            return value, place + shift + 1
    raise _BrokenError


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product

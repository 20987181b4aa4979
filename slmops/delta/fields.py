"""What a block of quantised weights is made of: scales, smaller scales, and a code for each weight.

Pure numpy: blocks in, fields out, and back. A table says it for every ggml type; nothing of files or names.
A weight is scale * (code - middle) - least, where scale and least are those of its part of the block: the
product of a half float and a small integer, or the half float alone. Where the type has a codebook, it is
scale * codebook[code].

Laws: join(split(blocks)) == blocks for any bytes whatever.
Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SIGN = np.uint8(128)
CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int32)
"""The sixteen values of IQ4_NL and IQ4_XS (llama.cpp, ggml-common.h)."""


class Fields(NamedTuple):
    """Fields of n blocks; `codes` (n, parts, weights of a part), the others (n, how many) of each."""

    halves: Bytes
    """(n, halves, 2): float16 numbers, little-endian: the scale first, then the least if there is one."""
    scales: Bytes
    """(n, parts), or (n, 0): what the scale is multiplied with."""
    leasts: Bytes
    """(n, parts), or (n, 0): what the least is multiplied with."""
    codes: Bytes


@dataclass(frozen=True)
class Layout:
    """A type of block."""

    nbytes: int
    weights: int
    codes: int
    """How many codes there are: the greatest and one."""
    middle: int
    split: Callable[[Bytes], Fields]
    """Takes (n, nbytes)."""
    join: Callable[[Fields, Bytes], None]
    """Fills (n, nbytes)."""
    scale_codes: int = 0
    """How many values a smaller scale can have; 0: there is none."""
    scale_middle: int = 0
    sign: int = 1
    """-1 where the least is added and not taken away."""
    codebook: bool = False
    lattice: bool = False
    """Whether codes stand for several weights together, so that a scale does not move them."""


def _cut(packed: Bytes, shift: int, count: int) -> Bytes:
    """Return `count` bits from `shift` on."""
    return (packed >> np.uint8(shift)) & np.uint8((1 << count) - 1)


def _up(codes: Bytes, shift: int) -> Bytes:
    """Return codes `shift` bits higher up; what leaves the byte is lost."""
    return codes << np.uint8(shift)


def nibbles(packed: Bytes) -> Bytes:
    """Return (..., 2 * width) of (..., width): all lower halves, then all upper ones."""
    return np.concatenate((_cut(packed, 0, 4), _cut(packed, 4, 4)), axis=-1)


def packed_nibbles(codes: Bytes) -> Bytes:
    """Return what `nibbles` was given; of codes beyond 15 the lower half."""
    half = codes.shape[-1] // 2
    return _cut(codes[..., :half], 0, 4) | _up(codes[..., half:], 4)


def _pairs(packed: Bytes) -> Bytes:
    """Return (..., 4 * width) of (..., width): the lowest two bits of all, then the next two."""
    return np.concatenate([_cut(packed, shift, 2) for shift in (0, 2, 4, 6)], axis=-1)


def _four(codes: Bytes) -> Bytes:
    parts = [_up(_cut(part, 0, 2), 2 * place) for place, part in enumerate(np.split(codes, 4, axis=-1))]
    return parts[0] | parts[1] | parts[2] | parts[3]


def _bits(packed: Bytes) -> Bytes:
    """Return (n, 8, width) of (n, width): the lowest bit of all, then the next."""
    return np.stack([_cut(packed, shift, 1) for shift in range(8)], axis=1)


def _eight(bits: Bytes) -> Bytes:
    made = bits[:, 0].copy()
    for place in range(1, 8):
        made |= _up(bits[:, place], place)
    return made


def _none(blocks: Bytes) -> Bytes:
    return np.empty((len(blocks), 0), np.uint8)


def _halves(blocks: Bytes, *places: int) -> Bytes:
    return np.stack([blocks[:, place : place + 2] for place in places], axis=1)


def _plain(
    nbytes: int, halves: int, *, fifth: bool = False
) -> tuple[Callable[[Bytes], Fields], Callable[[Fields, Bytes], None]]:
    """Return split and join of blocks of 32: half floats, fifth bits where there are any, nibbles."""
    bits = 2 * halves
    codes = bits + (4 if fifth else 0)
    places = tuple(range(0, bits, 2))

    def split(blocks: Bytes) -> Fields:
        found = nibbles(blocks[:, None, codes:nbytes])
        if fifth:
            found |= _up(np.unpackbits(blocks[:, None, bits:codes], axis=-1, bitorder="little"), 4)
        return Fields(_halves(blocks, *places), _none(blocks), _none(blocks), found)

    def join(fields: Fields, blocks: Bytes) -> None:
        blocks[:, :bits] = fields.halves.reshape(len(blocks), bits)
        blocks[:, codes:] = packed_nibbles(fields.codes)[:, 0]
        if fifth:
            blocks[:, bits:codes] = np.packbits(_cut(fields.codes[:, 0], 4, 1), axis=-1, bitorder="little")

    return split, join


def _split_q8_0(blocks: Bytes) -> Fields:
    return Fields(_halves(blocks, 0), _none(blocks), _none(blocks), blocks[:, None, 2:] ^ _SIGN)


def _join_q8_0(fields: Fields, blocks: Bytes) -> None:
    blocks[:, :2] = fields.halves[:, 0]
    blocks[:, 2:] = fields.codes[:, 0] ^ _SIGN


def _split_q2_k(blocks: Bytes) -> Fields:
    codes = _pairs(blocks[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    return Fields(_halves(blocks, 80, 82), _cut(blocks[:, :16], 0, 4), _cut(blocks[:, :16], 4, 4), codes)


def _join_q2_k(fields: Fields, blocks: Bytes) -> None:
    blocks[:, :16] = fields.scales | _up(fields.leasts, 4)
    blocks[:, 16:80] = _four(fields.codes.reshape(-1, 2, 128)).reshape(-1, 64)
    blocks[:, 80:] = fields.halves.reshape(-1, 4)


def _split_q3_k(blocks: Bytes) -> Fields:
    codes = _pairs(blocks[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 8, 32) | _up(_bits(blocks[:, :32]), 2)
    scales = nibbles(blocks[:, 96:104]) | _up(_pairs(blocks[:, 104:108]), 4)
    return Fields(_halves(blocks, 108), scales, _none(blocks), codes.reshape(-1, 16, 16))


def _join_q3_k(fields: Fields, blocks: Bytes) -> None:
    codes = fields.codes.reshape(-1, 8, 32)
    blocks[:, :32] = _eight(_cut(codes, 2, 1))
    blocks[:, 32:96] = _four(codes.reshape(-1, 2, 128)).reshape(-1, 64)
    blocks[:, 96:104] = packed_nibbles(fields.scales)
    blocks[:, 104:108] = _four(_cut(fields.scales, 4, 2))
    blocks[:, 108:] = fields.halves[:, 0]


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the eight scales and the eight leasts in the twelve bytes of Q4_K and Q5_K."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = _cut(third, 0, 4) | _up(_cut(first, 6, 2), 4)
    leasts = _cut(third, 4, 4) | _up(_cut(second, 6, 2), 4)
    return (
        np.concatenate((_cut(first, 0, 6), scales), axis=1),
        np.concatenate((_cut(second, 0, 6), leasts), axis=1),
    )


def _join_six_bits(scales: Bytes, leasts: Bytes, into: Bytes) -> None:
    into[:, :4] = scales[:, :4] | _up(_cut(scales[:, 4:], 4, 2), 6)
    into[:, 4:8] = leasts[:, :4] | _up(_cut(leasts[:, 4:], 4, 2), 6)
    into[:, 8:] = _cut(scales[:, 4:], 0, 4) | _up(leasts[:, 4:], 4)


def _split_q4_k(blocks: Bytes) -> Fields:
    codes = nibbles(blocks[:, 16:144].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return Fields(_halves(blocks, 0, 2), *_six_bits(blocks[:, 4:16]), codes)


def _join_q4_k(fields: Fields, blocks: Bytes) -> None:
    blocks[:, :4] = fields.halves.reshape(-1, 4)
    _join_six_bits(fields.scales, fields.leasts, blocks[:, 4:16])
    blocks[:, 16:] = packed_nibbles(fields.codes.reshape(-1, 4, 64)).reshape(-1, 128)


def _split_q5_k(blocks: Bytes) -> Fields:
    codes = nibbles(blocks[:, 48:176].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    codes |= _up(_bits(blocks[:, 16:48]), 4)
    return Fields(_halves(blocks, 0, 2), *_six_bits(blocks[:, 4:16]), codes)


def _join_q5_k(fields: Fields, blocks: Bytes) -> None:
    blocks[:, :4] = fields.halves.reshape(-1, 4)
    _join_six_bits(fields.scales, fields.leasts, blocks[:, 4:16])
    blocks[:, 16:48] = _eight(_cut(fields.codes, 4, 1))
    blocks[:, 48:] = packed_nibbles(fields.codes.reshape(-1, 4, 64)).reshape(-1, 128)


def _split_q6_k(blocks: Bytes) -> Fields:
    codes = nibbles(blocks[:, :128].reshape(-1, 2, 64))
    codes |= _up(_pairs(blocks[:, 128:192].reshape(-1, 2, 32)), 4)
    return Fields(_halves(blocks, 208), blocks[:, 192:208] ^ _SIGN, _none(blocks), codes.reshape(-1, 16, 16))


def _join_q6_k(fields: Fields, blocks: Bytes) -> None:
    codes = fields.codes.reshape(-1, 2, 128)
    blocks[:, :128] = packed_nibbles(codes).reshape(-1, 128)
    blocks[:, 128:192] = _four(_cut(codes, 4, 2)).reshape(-1, 64)
    blocks[:, 192:208] = fields.scales ^ _SIGN
    blocks[:, 208:] = fields.halves[:, 0]


def _split_iq4_xs(blocks: Bytes) -> Fields:
    low = np.stack((_cut(blocks[:, 4:8], 0, 4), _cut(blocks[:, 4:8], 4, 4)), axis=-1)
    high = np.stack([_cut(blocks[:, 2:4], shift, 2) for shift in (0, 2, 4, 6)], axis=-1)
    scales = low.reshape(-1, 8) | _up(high.reshape(-1, 8), 4)
    return Fields(_halves(blocks, 0), scales, _none(blocks), nibbles(blocks[:, 8:].reshape(-1, 8, 16)))


def _join_iq4_xs(fields: Fields, blocks: Bytes) -> None:
    high = _cut(fields.scales, 4, 2).reshape(-1, 2, 4)
    blocks[:, :2] = fields.halves[:, 0]
    blocks[:, 2:4] = high[..., 0] | _up(high[..., 1], 2) | _up(high[..., 2], 4) | _up(high[..., 3], 6)
    blocks[:, 4:8] = _cut(fields.scales[:, ::2], 0, 4) | _up(fields.scales[:, 1::2], 4)
    blocks[:, 8:] = packed_nibbles(fields.codes).reshape(-1, 128)


def _lattice(nbytes: int) -> Layout:
    """Return a layout whose codes are numbers of points in a lattice: bytes that foretell only themselves."""

    def split(blocks: Bytes) -> Fields:
        return Fields(_halves(blocks, 0), _none(blocks), _none(blocks), blocks[:, None, 2:])

    def join(fields: Fields, blocks: Bytes) -> None:
        blocks[:, :2] = fields.halves[:, 0]
        blocks[:, 2:] = fields.codes[:, 0]

    return Layout(nbytes, 256, 256, 0, split, join, lattice=True)


LAYOUTS = {
    "Q4_0": Layout(18, 32, 16, 8, *_plain(18, 1)),
    "Q4_1": Layout(20, 32, 16, 0, *_plain(20, 2), sign=-1),
    "Q5_0": Layout(22, 32, 32, 16, *_plain(22, 1, fifth=True)),
    "Q5_1": Layout(24, 32, 32, 0, *_plain(24, 2, fifth=True), sign=-1),
    "Q8_0": Layout(34, 32, 256, 128, _split_q8_0, _join_q8_0),
    "Q2_K": Layout(84, 256, 4, 0, _split_q2_k, _join_q2_k, scale_codes=16),
    "Q3_K": Layout(110, 256, 8, 4, _split_q3_k, _join_q3_k, scale_codes=64, scale_middle=32),
    "Q4_K": Layout(144, 256, 16, 0, _split_q4_k, _join_q4_k, scale_codes=64),
    "Q5_K": Layout(176, 256, 32, 0, _split_q5_k, _join_q5_k, scale_codes=64),
    "Q6_K": Layout(210, 256, 64, 32, _split_q6_k, _join_q6_k, scale_codes=256, scale_middle=128),
    "IQ4_NL": Layout(18, 32, 16, 0, *_plain(18, 1), codebook=True),
    "IQ3_S": _lattice(110),
    "IQ3_XXS": _lattice(98),
    "IQ2_S": _lattice(82),
    "IQ2_XS": _lattice(74),
    "IQ2_XXS": _lattice(66),
    "IQ1_S": _lattice(50),
    "IQ4_XS": Layout(136, 256, 16, 0, _split_iq4_xs, _join_iq4_xs, 64, 32, codebook=True),
}
"""By ggml's names."""

"""Round a block with the scales that the same block of an earlier artifact has, where that costs little.

An update of a fine-tuned model moves every scale a bit, and with it every block of the file. Where the
earlier scales serve nearly as well, they are taken: what then differs is the few codes that really changed,
and a delta is small. One rule for every type: the whole header of a block (scale, minimum, sub-scales) is
the base's, bit for bit, if the squared error with it is at most 1 + `tolerance` times that of its own.

Pure: weights and blocks in, blocks out. What a header means is not written here once more: the decoder of the
`gguf` package is asked what it makes of the least code and of the greatest.

Laws: a block has the bytes it would have had, or the base's header and the nearest codes (where float16
cannot tell two codes apart, the base's); its squared error is never more than 1 + `tolerance` times what it
would have been; a block that would have been the base's stays so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, quants

from slmops.delta.fields import CODEBOOK, LAYOUTS

Bytes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

REUSABLE = frozenset(name for name, layout in LAYOUTS.items() if not layout.lattice)
"""Types whose scales can be reused: a code stands for one weight."""


@dataclass(frozen=True, eq=False)
class Alternative:
    """Some blocks of one type: as they would be, and as they are with the headers of a base."""

    own: Bytes
    """(n, bytes of a block)."""
    reusing: Bytes
    """The same."""
    growth: Float
    """(n): the squared error of the latter as a multiple of the former's."""

    def within(self, tolerance: float) -> tuple[Bytes, int]:
        """Return the blocks with the base's headers where growth allows it, and how many these are."""
        taken = self.growth <= 1 + tolerance
        return np.where(taken[:, None], self.reusing, self.own), int(np.count_nonzero(taken))


HALF_ULP = np.float32(2.0**-11)
"""What float16 leaves out of a number, as a share of it, at the most."""


def alternative(
    type_name: str, rows: Float, own: Bytes, base: Bytes, importance: Float | None = None
) -> Alternative:
    """Return what `rows` (n, columns) can be; `own` and `base` are (n, bytes of a row).

    `own` is what the quantiser made of them, and `importance` (columns) what it weighed errors by.
    """
    layout = LAYOUTS[type_name]
    weights = rows.reshape(-1, layout.weights)
    mine, theirs = own.reshape(-1, layout.nbytes), base.reshape(-1, layout.nbytes)
    matters = _of_blocks(importance, rows.shape, layout.weights)
    same = (mine == theirs).all(axis=1, keepdims=True)
    reusing = np.where(same, mine, round_with(type_name, theirs, weights))
    before, after = (_error(values(type_name, each), weights, matters) for each in (mine, reusing))
    endless = np.where(after > 0, np.float32(np.inf), np.float32(1))
    return Alternative(mine, reusing, np.divide(after, before, out=endless, where=before > 0))


def values(type_name: str, blocks: Bytes) -> Float:
    """Return the weights (n, of a block) that a runtime computes with."""
    return np.asarray(quants.dequantize(blocks, GGMLQuantizationType[type_name]), np.float32)


def round_with(type_name: str, base: Bytes, weights: Float) -> Bytes:
    """Return blocks with the headers of those of `base`, and with the nearest codes for `weights`."""
    layout = LAYOUTS[type_name]
    fields = layout.split(base)

    def joined(codes: npt.NDArray[np.uint8]) -> Bytes:
        blocks = np.empty_like(base)
        layout.join(fields._replace(codes=codes.reshape(fields.codes.shape)), blocks)
        return blocks

    # ggml makes no -128 of Q8_0, and some of its kernels do not expect one.
    least, most = int(type_name == "Q8_0"), layout.codes - 1
    low, high = (values(type_name, joined(np.full(weights.shape, code, np.uint8))) for code in (least, most))
    levels = CODEBOOK if layout.codebook else np.arange(least, most + 1)
    reach = np.float32(levels[-1] - levels[0])
    place = np.divide((weights - low) * reach, high - low, out=np.zeros_like(weights), where=high != low)
    if layout.codebook:
        between = (levels[1:] + levels[:-1]) / 2 - levels[0]
        return joined(np.searchsorted(between, place).astype(np.uint8))
    # A quantiser divides by its scale before it rounds that to float16: its codes may be off by this much.
    # No more may stay: codes that nearly change are what carries an update, and all of them lean one way.
    before = fields.codes.reshape(weights.shape) - np.float32(least)
    stays = np.abs(place - before) <= 0.5 + np.abs(before + least - layout.middle) * HALF_ULP
    return joined((np.where(stays, before, np.clip(np.rint(place), 0, reach)) + least).astype(np.uint8))


def _of_blocks(importance: Float | None, shape: tuple[int, ...], block: int) -> Float:
    if importance is None:
        return np.ones((1, 1), np.float32)
    return np.broadcast_to(importance, shape).reshape(-1, block)


def _error(said: Float, weights: Float, matters: Float) -> npt.NDArray[np.float32]:
    return np.asarray((np.square(said - weights) * matters).sum(axis=1))

"""The numbers of a GGUF tensor, read from the checkpoint piece by piece and put in llama.cpp's order.

Knows where numbers lie and how a family's layout moves them; nothing of types and of the file made.

Laws: the pieces of a tensor, one after the other, are its rows in order; none has more than `most`
weights, unless one row (or one head whose rows change places) has more; what is read is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from slmops.build.checkpoint import Checkpoint
from slmops.build.family import GgufTensor
from slmops.build.read_tensors import read_columns, read_rows
from slmops.errors import ModelError

Rows = npt.NDArray[np.float32]


def pieces(checkpoint: Checkpoint, tensor: GgufTensor, most: int) -> Iterator[Rows]:
    """Yield the rows of `tensor`, about `most` weights at a time; raise ModelError for what is no number."""
    if tensor.values:
        yield np.array(tensor.values, np.float32)
        return
    entry = checkpoint.tensors[tensor.source]
    read = read_columns if tensor.transposed else read_rows
    length, together = tensor.shape[0], tensor.rotated_heads or 1
    step = max(1, most * length // math.prod(tensor.shape) // together) * together
    for start in range(0, length, step):
        rows = read(entry, start, min(start + step, length))
        _check_numbers(tensor, rows)
        yield _moved(rows, tensor)


def _moved(rows: Rows, tensor: GgufTensor) -> Rows:
    if tensor.rotated_heads:
        return interleaved(rows, tensor.rotated_heads)
    return rows + np.float32(1) if tensor.plus_one else rows


def interleaved(rows: Rows, head: int) -> Rows:
    """Return the rows with the two halves of each head laced into pairs."""
    halves = rows.reshape(-1, 2, head // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _check_numbers(tensor: GgufTensor, rows: Rows) -> None:
    if not np.isfinite(rows).all():
        raise ModelError(
            f"{tensor.source} holds {np.count_nonzero(~np.isfinite(rows))} weights that are NaN or infinite",
            remedy="Start from an earlier checkpoint: the training diverged.",
        )

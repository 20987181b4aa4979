"""A matrix in four bits per weight: blocks of 32 with a scale and a zero each, as MatMulNBits reads them.

Pure: matrices in, codes out. Knows nothing of graphs, models or runtimes.

A weight is (code - zero) * scale, code and zero in 0..15, scale one of float16's numbers. Columns are
rounded from the first to the last; each takes over what the ones before it lost, in the measure in
which their inputs move together (LDLQ, arXiv 2307.13304; with the same inputs GPTQ's answer, without
its inverse). Scale and zero of a block are the best of a few shrunk ranges by squared error.

Laws: the same numbers give the same codes; a weight of zero stays zero when it is rounded plainly, and so
does a column that fills up a block; plainly, no block lies further from its weights by squared error than
its whole range spread over 16 codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights that share a scale and a zero: the least that MatMulNBits knows, 16 bytes of codes."""
TOP = 15
SHARES = tuple(np.arange(1.0, 0.55, -0.05, dtype=np.float32))
"""Which part of a block's range its codes are spread over: outliers may be cut for the sake of the rest."""
LEAST_SCALE = np.float32(np.finfo(np.float16).smallest_subnormal)
DAMPING = 0.01
"""Share of the mean energy of the inputs that is added to each: a sample says nothing of what it lacks."""


@dataclass(frozen=True)
class Nibbles:
    """A matrix (outputs, inputs) in blocks along its inputs, the last block filled up with zeros."""

    shape: tuple[int, int]
    codes: Bytes
    """(outputs, blocks, 32), 0..15."""
    scales: npt.NDArray[np.float16]
    """(outputs, blocks)."""
    zeros: Bytes
    """(outputs, blocks), 0..15."""

    def values(self) -> Float:
        """Return the matrix that a runtime computes with."""
        steps = self.codes.astype(np.float32) - self.zeros[..., None]
        return _joined(steps * self.scales[..., None].astype(np.float32), self.shape[1])

    @property
    def packed_codes(self) -> Bytes:
        """Return (outputs, blocks, 16): two codes in a byte, the earlier in the lower half."""
        return _packed(self.codes)

    @property
    def packed_zeros(self) -> Bytes:
        """Return (outputs, half of the blocks, rounded up), packed like the codes."""
        return _packed(np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2))))


def packed_bytes(outputs: int, inputs: int) -> int:
    """Return how many bytes codes, scales and zeros of a matrix take."""
    blocks = -(-inputs // BLOCK)
    return outputs * (blocks * (BLOCK // 2 + 2) + (blocks + 1) // 2)


def round_plainly(matrix: Float) -> Nibbles:
    """Round every weight by itself."""
    blocks = _blocks(matrix)
    scales, zeros = _spread(blocks, np.ones(blocks.shape[1:], np.float32))
    return Nibbles(_shape(matrix), _codes(blocks, scales[..., None], zeros[..., None]), scales, zeros)


def round_for(matrix: Float, inputs: npt.NDArray[np.floating]) -> Nibbles:
    """Round so that the products with typical inputs change least.

    `inputs` is the mean of x * x^T over inputs x: (inputs, inputs), symmetric, no negative eigenvalue.
    """
    factor = _upper_factor(inputs)
    weight = np.square(factor.diagonal())
    carried = np.triu(factor / factor.diagonal(), 1).astype(np.float32)
    count = matrix.shape[1]
    codes, scales, zeros = [], [], []
    lost = np.zeros_like(matrix)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        wanted = matrix[:, start:stop] + lost[:, :start] @ carried[:start, start:stop]
        of_weight = np.pad(weight[start:stop], (0, start + BLOCK - stop)).astype(np.float32)
        scale, zero = _spread(_blocks(wanted), of_weight[None])
        said = np.repeat(zero, BLOCK, axis=1)
        for column in range(start, stop):
            inside = column - start
            aim = wanted[:, inside] + lost[:, start:column] @ carried[start:column, column]
            said[:, inside] = _codes(aim, scale[:, 0], zero[:, 0])
            near = (said[:, inside].astype(np.float32) - zero[:, 0]) * scale[:, 0].astype(np.float32)
            lost[:, column] = matrix[:, column] - near
        codes.append(said)
        scales.append(scale)
        zeros.append(zero)
    return Nibbles(
        _shape(matrix), np.stack(codes, 1), np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1)
    )


def _upper_factor(inputs: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the upper triangular R with R R^T = `inputs`, damped so that there is one."""
    energy = inputs.astype(np.float64)
    energy[np.diag_indices_from(energy)] += DAMPING * energy.diagonal().mean() + np.finfo(np.float32).tiny
    return np.asarray(np.linalg.cholesky(energy[::-1, ::-1])[::-1, ::-1])


def _spread(blocks: Float, weight: Float) -> tuple[npt.NDArray[np.float16], Bytes]:
    """Return scale and zero of each block: those with the least squared error, inputs weighted."""
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    best = np.full(low.shape, np.inf, np.float32)
    scales, zeros = np.empty(low.shape, np.float16), np.empty(low.shape, np.uint8)

    def offer(wanted: Float, zero: Float) -> Float:
        scale = np.maximum(wanted, LEAST_SCALE).astype(np.float16)
        near = scale[..., None].astype(np.float32)
        steps = np.clip(np.rint(blocks / near), -zero[..., None], TOP - zero[..., None])
        error = (np.square(steps * near - blocks) * weight).sum(axis=-1)
        better = error < best
        best[better], scales[better], zeros[better] = error[better], scale[better], zero[better]
        return np.asarray(steps)

    for share in SHARES:
        scale = np.maximum((high - low) * share / TOP, LEAST_SCALE)
        zero = np.clip(np.rint((TOP - (high + low) / scale) / 2), 0, TOP)
        steps = offer(scale, zero)
        against = (blocks * steps * weight).sum(axis=-1)
        offer(against / np.maximum((steps * steps * weight).sum(axis=-1), LEAST_SCALE), zero)
    return scales, zeros


def _codes(values: Float, scales: npt.NDArray[np.float16], zeros: Bytes) -> Bytes:
    steps = np.rint(values / scales.astype(np.float32))
    return np.clip(steps + zeros, 0, TOP).astype(np.uint8)


def _blocks(matrix: Float) -> Float:
    """Return (outputs, blocks, 32)."""
    filled = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % BLOCK)))
    return filled.reshape(len(matrix), -1, BLOCK)


def _joined(blocks: Float, columns: int) -> Float:
    return blocks.reshape(len(blocks), -1)[:, :columns]


def _packed(codes: Bytes) -> Bytes:
    return np.asarray(codes[..., ::2] | codes[..., 1::2] << 4)


def _shape(matrix: Float) -> tuple[int, int]:
    return matrix.shape[0], matrix.shape[1]

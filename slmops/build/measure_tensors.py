"""Measure what rounding one tensor alone costs: each matrix in turn, in each type it may have.

The source model runs in a child process; one matrix at a time is rounded by ggml, put back as float32,
and the model reads the same text again. The text is what the source writes itself, from another seed
than the one that artifacts are measured on. Where a model is too large to try every type, one is tried
and the others follow from their rounding errors: a small loss grows as the square of the error.

Law: after a matrix was tried it is as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from slmops.build.checkpoint import Checkpoint
from slmops.build.divergence import Rows, divergences
from slmops.build.family import GgufTensor, layout
from slmops.build.ggml import Quantizer
from slmops.build.importance import Importance
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.mix import Option
from slmops.build.scheme import GGML_TYPES, is_matrix, padded
from slmops.errors import BuildError

TYPES = {
    256: ("F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K"),
    32: ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0"),
    1: ("F16",),
}
"""What a tensor may have, by the largest block that divides its rows. Slow types are left out."""
PROBE = {256: "Q4_K", 32: "Q4_0", 1: "F16"}
"""The one type that is tried where there is no time for all."""
WORK = 2e13
"""Multiplications and additions to be spent in all: some minutes of two cores."""
MOST_TOKENS, LEAST_TOKENS, LENGTH = 512, 64, 64
KEPT_BYTES = 512 << 20
"""Of the source's own logits, kept to compare with."""
SEED = 1
PIECE = 1 << 20


def measure_tensors(
    checkpoint: Checkpoint, importance: Importance | None, *, progress: Progress = silent
) -> dict[str, list[Option]]:
    """Return the options of each matrix by its GGUF name; raise BuildError when the model cannot be run."""
    return isolate("trying types on the source model", _try_all, progress, checkpoint, importance)


def options_of(columns: int) -> int:
    """Return the largest block of the types above that divides a row of `columns`."""
    return next(block for block in TYPES if columns % block == 0)


def _try_all(
    progress: Progress, checkpoint: Checkpoint, importance: Importance | None
) -> dict[str, list[Option]]:
    import torch  # noqa: PLC0415 - in this process only

    from slmops.build.open_model import TorchModel  # noqa: PLC0415
    from slmops.build.reference import load_reference  # noqa: PLC0415

    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    placed = layout(checkpoint.architecture, checkpoint.config, shapes)
    matrices = [tensor for tensor in placed if is_matrix(tensor.name, tensor.shape)]
    torch_model = load_reference(checkpoint, lambda share: progress("loading the source model", share))
    model = TorchModel(torch_model)
    tokens, every = _effort(checkpoint, len(matrices))
    texts = list(_texts(model, checkpoint, tokens, progress))
    exact = [_read(model, ids) for ids in texts]
    weights = dict(torch_model.named_parameters())
    found = {}
    with Quantizer() as quantizer, torch.no_grad():
        for done, tensor in enumerate(matrices):
            progress(f"trying types on {len(matrices)} matrices", done / len(matrices))
            columns = importance.columns.get(tensor.source) if importance else None
            rounding = _Rounding(weights[tensor.source], tensor, columns, quantizer)
            tried = TYPES[options_of(tensor.shape[-1])]
            probed = tried if every else (PROBE[options_of(tensor.shape[-1])],)
            found[tensor.name] = _options(rounding, tried, probed, lambda: _loss(model, texts, exact))
    return {name: options for name, options in found.items() if options}


def _effort(checkpoint: Checkpoint, matrices: int) -> tuple[int, bool]:
    """Return how many tokens to read each time, and whether every type is tried."""
    reading = 2 * checkpoint.parameters * matrices
    room = KEPT_BYTES // (4 * checkpoint.shape.vocab)
    most = max(LEAST_TOKENS, min(MOST_TOKENS, room))
    every = reading * len(TYPES[256]) * most <= WORK
    return (most, True) if every else (int(max(LEAST_TOKENS, min(most, WORK / reading))), False)


def _texts(model: Any, checkpoint: Checkpoint, tokens: int, progress: Progress) -> Iterator[list[int]]:
    from slmops.build.measure import write_story  # noqa: PLC0415
    from slmops.build.phrase import CheckpointPhrasing  # noqa: PLC0415

    phrasing, random, written = CheckpointPhrasing(checkpoint), np.random.default_rng(SEED), 0
    while written < tokens:
        ids = write_story(
            model, phrasing.begin_ids or [0], min(LENGTH, tokens - written), phrasing.stop_ids, random
        )
        written += len(ids)
        progress("writing text to try types on", written / tokens)
        yield ids


def _read(model: Any, ids: list[int]) -> Rows:
    model.restart()
    rows: Rows = model.feed(ids)
    return rows


def _loss(model: Any, texts: list[list[int]], exact: list[Rows]) -> float:
    """Return how far the model, as it now is, lies from what it said when it was whole, nats."""
    pairs = zip(exact, texts, strict=True)
    each = [divergences(expected, _read(model, ids)) for expected, ids in pairs]
    return float(np.concatenate(each).mean())


def _options(
    rounding: _Rounding, tried: tuple[str, ...], probed: tuple[str, ...], loss: Callable[[], float]
) -> list[Option]:
    errors, losses = {}, {}
    for type_name in tried:
        try:
            errors[type_name] = rounding.put(type_name)
        except BuildError:  # weights too large for this type
            continue
        if type_name in probed:
            losses[type_name] = loss()
    rounding.restore()
    if not losses:
        return []
    known = list(losses)[-1]
    steepness = losses[known] / max(errors[known], 1e-30)
    return [
        Option(name, rounding.nbytes(name), losses.get(name, steepness * error))
        for name, error in errors.items()
    ]


class _Rounding:
    """One weight of the model, that is rounded and put right again."""

    def __init__(
        self,
        weight: Any,
        tensor: GgufTensor,
        importance: npt.NDArray[np.float32] | None,
        quantizer: Quantizer,
    ) -> None:
        self._weight, self._shape, self._quantizer = weight, tensor.shape, quantizer
        self._exact = weight.numpy().copy()
        # ggml rounds along the inputs of a matrix; a few families store it with the inputs as rows.
        self._rows = self._exact.T if tensor.transposed else self._exact
        self._importance = importance

    def nbytes(self, type_name: str) -> int:
        return padded(GGML_TYPES[type_name].size(self._shape))

    def put(self, type_name: str) -> float:
        """Round the weight to a type; return the sum of its squared errors, weighed by importance."""
        kind = gguf.GGMLQuantizationType(GGML_TYPES[type_name].id)
        rounded = np.empty_like(self._rows)
        weighed, error = 1.0 if self._importance is None else self._importance, 0.0
        step = max(1, PIECE // self._shape[-1])
        for start in range(0, len(rounded), step):
            rows = np.ascontiguousarray(self._rows[start : start + step])
            raw = self._quantizer(type_name, rows, self._importance)
            rounded[start : start + step] = gguf.dequantize(raw, kind).reshape(rows.shape)
            error += float((weighed * (rounded[start : start + step] - rows) ** 2).sum())
        self._set(rounded if self._rows is self._exact else rounded.T)
        return error if math.isfinite(error) else math.inf

    def restore(self) -> None:
        self._set(self._exact)

    def _set(self, values: npt.NDArray[np.float32]) -> None:
        import torch  # noqa: PLC0415

        self._weight.copy_(torch.from_numpy(np.ascontiguousarray(values)))

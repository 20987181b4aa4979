"""How far one next-token distribution lies from another, and how far is too far.

Pure: logits in, numbers out. Knows nothing of models, runtimes or files.

Laws: the divergence is never negative, is zero of a distribution with itself, and does not change
when a constant is added to all logits of a row; agreement lies in 0..1; what is not a number never
passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slmops.errors import BuildError

Rows = npt.NDArray[np.float32]
"""Logits: one row per token that was fed, one column per token of the vocabulary."""

BOUNDS = {32: 1e-3, 16: 1e-2, 8: 5e-2, 6: 1e-1, 5: 3e-1, 4: 1.0, 3: 2.0, 2: 4.0}
"""Bits of a type -> mean divergence in nats above which an artifact is plainly not its source.

A wrong tensor, a transposed head or a saturating kernel shows as whole nats. Honest loss is far
below: measured on models of 0.3 to 0.7 million parameters, which bear quantisation worst, it is a
tenth of the bound or less. Whether a model is good enough is for its tasks to say, not for this.
"""


@dataclass(frozen=True)
class Measurement:
    """Loss of an artifact against its source, over text that the source wrote."""

    kl_mean: float
    """Mean of KL(source || artifact) over the tokens, nats."""
    kl_p99: float
    """99th percentile of the same."""
    top1: float
    """Share of the tokens after which both think the same token likeliest, 0..1."""
    tokens: int
    sequences: int


def log_probabilities(rows: Rows) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities that logits stand for, along the last axis."""
    shifted = rows.astype(np.float64) - rows.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergences(source: Rows, artifact: Rows) -> npt.NDArray[np.float64]:
    """Return KL(source || artifact) of each row, in nats; both have shape (tokens, vocabulary)."""
    # Row by row: with 150,000 tokens of vocabulary, a whole sequence in float64 is gigabytes.
    return np.array([_divergence(*rows) for rows in zip(source, artifact, strict=True)])


def agreements(source: Rows, artifact: Rows) -> npt.NDArray[np.bool_]:
    """Return, for each row, whether both have their largest logit at the same token."""
    return np.asarray(source.argmax(axis=-1) == artifact.argmax(axis=-1))


def margin_of_first(logits: Rows) -> float:
    """Return by how much probability the likeliest token leads the second, of one row of logits."""
    second, first = np.exp(np.partition(log_probabilities(logits), -2)[-2:])
    return float(first - second)


def summarize(pairs: Iterable[tuple[Rows, Rows]]) -> Measurement:
    """Return the loss over pairs of (source, artifact) logits, one pair per sequence."""
    loss, same = [], []
    for source, artifact in pairs:
        loss.append(divergences(source, artifact))
        same.append(agreements(source, artifact))
    every = np.concatenate(loss)
    return Measurement(
        kl_mean=float(every.mean()),
        kl_p99=float(np.percentile(every, 99)),
        top1=float(np.concatenate(same).mean()),
        tokens=len(every),
        sequences=len(loss),
    )


def _divergence(source: Rows, artifact: Rows) -> float:
    expected, got = log_probabilities(source), log_probabilities(artifact)
    return max(float((np.exp(expected) * (expected - got)).sum()), 0.0)


def judge(measurement: Measurement, type_name: str) -> None:
    """Raise BuildError unless the artifact of type `type_name` (Q4_K_M, INT8, F16) can be its source."""
    bits = re.search(r"\d+", type_name)
    bound = BOUNDS.get(int(bits[0])) if bits else None
    if bound is None:
        raise BuildError(f"no bound for the type {type_name!r}; known are types of {sorted(BOUNDS)} bits")
    if math.isfinite(measurement.kl_p99) and measurement.kl_mean <= bound:
        return
    raise BuildError(
        f"the {type_name} artifact is not its source: mean divergence {measurement.kl_mean:.3g} nats over "
        f"{measurement.tokens} tokens (at most {bound:g} expected), same first choice after "
        f"{measurement.top1:.1%} of them",
        remedy="Build with --type F16 (gguf) or F32 (onnx): if that passes, the model does not bear "
        f"{type_name}; if not, its family is not converted rightly.",
    )

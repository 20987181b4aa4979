"""Choosing the next token from logits: greedy, or drawn by temperature, top-k, top-p and min-p.

Pure: the chance comes in as a generator, so the same seed draws the same answer.

Laws: temperature 0 is the largest logit, the lowest id among equals; a token outside the top k, or
outside the smallest set that holds `top_p` of the probability, is never drawn; what a token costs for
having been written, or is worth by request, counts before everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slmops.daemon.engine import Logits
from slmops.daemon.sampling import Sampling
from slmops.errors import ModelError

FEW = 256
"""The likeliest tokens that are sorted at first: seldom more are needed, and sorting costs."""

COLD = 1e-6
"""A temperature below it is as good as this one, and its division has no room among numbers."""


def choose(logits: Logits, sampling: Sampling, chance: np.random.Generator) -> int:
    """Return the id of the next token; raise ModelError when the model computes no numbers."""
    best = int(logits.argmax())
    top = float(logits[best])
    if not -np.inf < top < np.inf:
        raise ModelError("the model computes logits that are not numbers: its weights are broken")
    if sampling.temperature == 0.0:
        return best
    few = _top(logits, sampling.top_k) if 0 < sampling.top_k < len(logits) else None
    left = logits if few is None else logits[few]
    weights = np.exp((left - np.float32(top)).astype(np.float64) / max(sampling.temperature, COLD))
    kept = _likeliest(left, weights, sampling, is_sorted=few is not None)
    line = np.cumsum(weights if kept is None else weights[kept])
    drawn = min(int(np.searchsorted(line, chance.random() * line[-1], side="right")), len(line) - 1)
    found = drawn if kept is None else int(kept[drawn])
    return found if few is None else int(few[found])


def bend(logits: Logits, sampling: Sampling, written: Mapping[int, int]) -> Logits:
    """Return the logits with what was asked for added to them; `written` counts the answer's tokens."""
    bent = logits.copy()
    for token, bias in sampling.logit_bias:
        bent[token] += bias
    for token, times in written.items():
        bent[token] -= sampling.frequency_penalty * times + sampling.presence_penalty
    return bent


def _likeliest(
    logits: Logits, weights: NDArray[np.float64], sampling: Sampling, *, is_sorted: bool
) -> NDArray[np.intp] | None:
    """Return where those are that may be drawn by top-p and min-p, None for all of them."""
    kept: NDArray[np.intp] | None = None
    if sampling.top_p < 1.0:
        wanted = sampling.top_p * float(weights.sum())
        kept = np.arange(len(weights)) if is_sorted else _holding(logits, weights, wanted)
        kept = kept[: int(np.searchsorted(np.cumsum(weights[kept]), wanted)) + 1]
    if sampling.min_p > 0.0:
        likely = weights >= sampling.min_p
        kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
    return kept


def _top(logits: Logits, count: int) -> NDArray[np.intp]:
    """Return the `count` likeliest ids, sorted."""
    found = np.argpartition(-logits, count - 1)[:count]
    return found[np.argsort(-logits[found], kind="stable")]


def _holding(logits: Logits, weights: NDArray[np.float64], wanted: float) -> NDArray[np.intp]:
    """Return the likeliest ids, sorted, that weigh `wanted` or more: as few as are sorted fast."""
    count = FEW
    while count < len(logits):
        found = _top(logits, count)
        if weights[found].sum() >= wanted:
            return found
        count *= 8
    return np.argsort(-logits, kind="stable")

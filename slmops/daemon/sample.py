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

__all__ = ["Sampling", "bend", "choose"]


def choose(logits: Logits, sampling: Sampling, chance: np.random.Generator) -> int:
    """Return the id of the next token; raise ModelError when the model computes no numbers."""
    best = int(logits.argmax())
    top = float(logits[best])
    if not -np.inf < top < np.inf:
        raise ModelError("the model computes logits that are not numbers: its weights are broken")
    if sampling.temperature == 0.0:
        return best
    weights = np.exp((logits - np.float32(top)).astype(np.float64) / sampling.temperature)
    kept = _likeliest(logits, weights, sampling)
    line = np.cumsum(weights if kept is None else weights[kept])
    drawn = min(int(np.searchsorted(line, chance.random() * line[-1], side="right")), len(line) - 1)
    return drawn if kept is None else int(kept[drawn])


def bend(logits: Logits, sampling: Sampling, written: Mapping[int, int]) -> Logits:
    """Return the logits with what was asked for added to them; `written` counts the answer's tokens."""
    bent = logits.copy()
    for token, bias in sampling.logit_bias:
        bent[token] += bias
    for token, times in written.items():
        bent[token] -= sampling.frequency_penalty * times + sampling.presence_penalty
    return bent


def _likeliest(
    logits: Logits, weights: NDArray[np.float64], sampling: Sampling
) -> NDArray[np.intp] | None:
    """Return the ids to draw from, the likeliest first; None: all of them, as they are."""
    kept: NDArray[np.intp] | None = None
    if 0 < sampling.top_k < len(weights):
        kept = _top(logits, sampling.top_k)
    if sampling.top_p < 1.0:
        kept = _cut(weights, _nucleus(logits, weights, sampling.top_p) if kept is None else kept, sampling.top_p)
    if sampling.min_p > 0.0:
        likely = np.flatnonzero(weights >= sampling.min_p)
        kept = likely if kept is None else kept[weights[kept] >= sampling.min_p]
    return kept


def _top(logits: Logits, count: int) -> NDArray[np.intp]:
    """Return the `count` likeliest ids, sorted."""
    found = np.argpartition(-logits, count - 1)[:count]
    return found[np.argsort(-logits[found], kind="stable")]


def _nucleus(logits: Logits, weights: NDArray[np.float64], share: float) -> NDArray[np.intp]:
    """Return the likeliest ids, sorted: as few as are sorted fast and hold `share` of all weight."""
    wanted, count = share * float(weights.sum()), FEW
    while count < len(logits):
        found = _top(logits, count)
        if weights[found].sum() >= wanted:
            return found
        count *= 8
    return np.argsort(-logits, kind="stable")


def _cut(weights: NDArray[np.float64], ids: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    """Return the first of the sorted `ids` that hold `share` of their weight."""
    line = np.cumsum(weights[ids])
    return ids[: int(np.searchsorted(line, share * float(line[-1]))) + 1]

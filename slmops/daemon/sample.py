"""Choosing the next token from logits: greedy, or drawn by temperature, top-k and top-p.

Pure: the chance comes in as a generator, so the same seed draws the same answer.

Laws: temperature 0 is the largest logit, the lowest id among equals; a token outside the top k, or
outside the smallest set that holds `top_p` of the probability, is never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmops.daemon.engine import Logits
from slmops.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """How to choose; the defaults choose greedily."""

    temperature: float = 0.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together hold this share of the probability."""
    seed: int | None = None
    """The same seed gives the same answer; None draws anew each time."""


def choose(logits: Logits, sampling: Sampling, chance: np.random.Generator) -> int:
    """Return the id of the next token; raise ModelError when the model computes no numbers."""
    best = int(np.argmax(logits))
    if not np.isfinite(logits[best]):
        raise ModelError("the model computes logits that are not numbers: its weights are broken")
    if sampling.temperature == 0.0:
        return best
    order = _likeliest(logits, sampling)
    scaled = (logits[order].astype(np.float64) - float(logits[best])) / sampling.temperature
    weights = np.exp(scaled)
    weights /= weights.sum()
    if sampling.top_p < 1.0:
        weights = weights[: int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1]
    line = np.cumsum(weights)
    drawn = int(np.searchsorted(line, chance.random() * line[-1], side="right"))
    return int(order[min(drawn, len(line) - 1)])


def _likeliest(logits: Logits, sampling: Sampling) -> NDArray[np.intp]:
    """Return the ids to draw from, sorted by likelihood only where that matters: sorting costs."""
    if not sampling.top_k and sampling.top_p == 1.0:
        return np.arange(len(logits))
    kept = np.arange(len(logits))
    if 0 < sampling.top_k < len(logits):
        kept = np.argpartition(-logits, sampling.top_k - 1)[: sampling.top_k]
    return kept[np.argsort(-logits[kept])]

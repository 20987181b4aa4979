"""How likely a model holds the tokens of a text: log-probabilities from logits, and who was likelier.

Pure: it does not know engines, requests or how a text came about.

Laws: the probabilities of a whole vocabulary add up to one; the likeliest come first, the lowest id
among equals; logits that are no numbers are an error, never a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slmops.daemon.engine import Logits
from slmops.errors import ModelError

FLOOR = -9999.0
"""What OpenAI says of a token that cannot come: JSON has no infinity."""
TAIL = 8
"""Tokens before one that a decoder looks back on, to say how it is written there."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Scored:
    """One token of a text."""

    text: str
    logprob: float | None
    """In nats; None for the first token of a sequence, which nothing foretells."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens in its place, by text."""


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return the log-probability of every token; raise ModelError when the model computes no numbers."""
    wide = logits.astype(np.float64)
    best = wide.max()
    if not np.isfinite(best):
        raise ModelError("the model computes logits that are not numbers: its weights are broken")
    wide -= best
    return np.asarray(np.maximum(wide - np.log(np.exp(wide).sum()), FLOOR))


def score(decode: Decode, before: Sequence[int], token: int, logits: Logits | None, most: int) -> Scored:
    """Score `token`, which comes after `before` and was foretold by `logits`; tell the `most` likeliest."""
    tail = list(before[-TAIL:])
    written = len(decode(tail))

    def text(other: int) -> str:
        return decode([*tail, other])[written:]

    if logits is None:
        return Scored(text(token), None)
    found = log_probabilities(logits)
    top = tuple((text(int(other)), float(found[other])) for other in _likeliest(found, most))
    return Scored(text(token), float(found[token]), top)


def _likeliest(found: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Return the `most` likeliest, in order; only those that come into question are sorted, for it costs."""
    if not 0 < most < len(found):
        return np.argsort(-found, kind="stable")[:most]
    least = np.partition(found, len(found) - most)[len(found) - most]
    likely = np.flatnonzero(found >= least)
    return likely[np.argsort(-found[likely], kind="stable")][:most]

"""Which samples make up which step, and which of them a process reads at once.

Pure: what is dealt follows from the samples' lengths, a seed and the number of the step, so that a run
that goes on from any step has nothing to remember.

Laws: every epoch takes as many steps and has each sample once; every step has at least one sample, and
its tokens are an even share of all, give or take the longest sample; processes part a step among them
without rest, each with as many samples as another give or take one, of all lengths; a part is no larger
than asked unless one sample is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.integer[Any]]
"""Tokens of each sample: [samples]."""
Places = NDArray[np.int64]
"""Which samples: [any number of them]."""


def steps_per_epoch(lengths: Lengths, batch_tokens: int) -> int:
    """Return the steps in which all samples are read once, about `batch_tokens` tokens in each."""
    total = int(lengths.sum())
    # A share that is no shorter than any sample has at least one that begins in it.
    return max(1, min(-(-total // batch_tokens), total // int(lengths.max())))


def deal(lengths: Lengths, batch_tokens: int, seed: int, first: int = 0) -> Iterator[Places]:
    """Yield the samples of step `first` (counted from 0), of the one after it, and so on without end."""
    steps = steps_per_epoch(lengths, batch_tokens)
    for epoch in itertools.count(first // steps):
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        ends = np.cumsum(lengths[order], dtype=np.int64)
        # A sample belongs to the share of the tokens in which it begins.
        shares = (ends - lengths[order]) * steps // int(ends[-1])
        yield from np.split(order, np.flatnonzero(np.diff(shares)) + 1)[max(first - epoch * steps, 0) :]


def share(places: Places, lengths: Lengths, process: int, processes: int) -> Places:
    """Return which of the samples at `places` process `process` of `processes` reads, by their length."""
    return places[np.argsort(lengths[places], kind="stable")][process::processes]


def parts(places: Places, lengths: Lengths, part_tokens: int) -> Iterator[Places]:
    """Yield samples, given by their length, in parts of at most `part_tokens` tokens with their padding."""
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or (end + 1 - start) * lengths[places[end]] > part_tokens:
            yield places[start:end]
            start = end


def draw(seed: int, step: int, process: int) -> int:
    """Return what a process seeds its random numbers with at a step: dropout needs no other memory."""
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0] >> np.uint64(1))

"""How far one next-token distribution lies from another, and how far is too far.

Pure: logits in, numbers out. Knows nothing of models, runtimes or files.

Laws: the divergence is never negative, is zero of a distribution with itself, and does not change
when a constant is added to all logits of a row; agreement lies in 0..1; of a model with itself the
ratio of perplexities is 1, and its interval too; a text told in pieces counts as told at once; no
row is kept; what is not a number never passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

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


CONFIDENT = 1.96
"""Standard errors to each side of an interval that holds the truth 95 times in 100."""


@dataclass(frozen=True)
class Likelihood:
    """How well a model foretells a text."""

    nll: float
    """Mean negative log-likelihood of a token, nats."""
    error: float
    """Standard error of that mean."""
    tokens: int
    """Tokens that were foretold: all but the first of each sequence."""
    bytes: int
    """Length of the text that those tokens write, in UTF-8."""

    @property
    def perplexity(self) -> float:
        """Return among how many tokens, as it were, the model hesitates."""
        return exponential(self.nll)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the perplexity."""
        return interval(self.nll, self.error)

    @property
    def bits_per_byte(self) -> float:
        """Return bits for each byte of text: the one figure that models of different vocabularies share."""
        return self.nll * self.tokens / math.log(2) / self.bytes if self.bytes else math.nan


@dataclass(frozen=True)
class Measurement:
    """Loss of an artifact against its source, over the same text. Intervals are of 95 % confidence."""

    kl_mean: float
    """Mean of KL(source || artifact) over the tokens, nats."""
    kl_p99: float
    """99th percentile of the same."""
    top1: float
    """Share of the tokens after which both think the same token likeliest, 0..1."""
    tokens: int
    sequences: int
    kl_error: float = math.nan
    """Standard error of kl_mean."""
    perplexity: float = math.nan
    perplexity_low: float = math.nan
    perplexity_high: float = math.nan
    source_perplexity: float = math.nan
    source_perplexity_low: float = math.nan
    source_perplexity_high: float = math.nan
    perplexity_ratio: float = math.nan
    """Of the artifact's to the source's. Its interval is that of the differences token by token, and so
    far narrower than the two perplexities' own."""
    perplexity_ratio_low: float = math.nan
    perplexity_ratio_high: float = math.nan
    bits_per_byte: float = math.nan
    source_bits_per_byte: float = math.nan

    def figures(self) -> dict[str, float]:
        """Return every figure that is a number by its name: what an artifact says it `measured`."""
        said = {name: float(value) for name, value in asdict(self).items()}
        return {name: value for name, value in said.items() if math.isfinite(value)}


class Tally:
    """Adds up what rows of logits say, as they come."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._loss, self._same, self._sequences = list[float](), list[bool](), 0
        self._source, self._artifact, self._bytes = list[float](), list[float](), 0

    def begin(self, nbytes: int) -> None:
        """Begin a sequence whose foretold tokens write `nbytes` of text."""
        self._sequences += 1
        self._bytes += nbytes

    def add(self, source: Rows, artifact: Rows, following: Sequence[int]) -> None:
        """Take rows of both after the same tokens, and the ids that follow them: none after the last row."""
        for place, pair in enumerate(zip(source, artifact, strict=True)):
            expected, got = (log_probabilities(row) for row in pair)
            self._loss.append(_divergence(expected, got))
            self._same.append(bool(pair[0].argmax() == pair[1].argmax()))
            if place < len(following):
                self._source.append(-float(expected[following[place]]))
                self._artifact.append(-float(got[following[place]]))

    def measurement(self) -> Measurement:
        """Return the loss over all that was added."""
        one, other = likelihood(self._artifact, self._bytes), likelihood(self._source, self._bytes)
        ratio, error = mean_and_error(np.array(self._artifact) - np.array(self._source))
        kl_mean, kl_error = mean_and_error(self._loss)
        return Measurement(
            kl_mean=kl_mean,
            kl_p99=float(np.percentile(self._loss, 99)) if self._loss else math.nan,
            top1=float(np.mean(self._same)) if self._same else math.nan,
            tokens=len(self._loss),
            sequences=self._sequences,
            kl_error=kl_error,
            perplexity=one.perplexity,
            perplexity_low=one.interval[0],
            perplexity_high=one.interval[1],
            source_perplexity=other.perplexity,
            source_perplexity_low=other.interval[0],
            source_perplexity_high=other.interval[1],
            perplexity_ratio=exponential(ratio),
            perplexity_ratio_low=interval(ratio, error)[0],
            perplexity_ratio_high=interval(ratio, error)[1],
            bits_per_byte=one.bits_per_byte,
            source_bits_per_byte=other.bits_per_byte,
        )


def likelihood(losses: Sequence[float], nbytes: int) -> Likelihood:
    """Return what the negative log-likelihoods of tokens that write `nbytes` of text come to."""
    return Likelihood(*mean_and_error(losses), tokens=len(losses), bytes=nbytes)


def mean_and_error(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of `values` and its standard error, as if each were drawn apart from the others."""
    if len(values) < 2:  # noqa: PLR2004 - one value says nothing of how far values lie apart
        return (float(values[0]) if len(values) else math.nan), math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def interval(mean: float, error: float) -> tuple[float, float]:
    """Return what e to the power of a mean with this standard error lies between, 95 times in 100."""
    return exponential(mean - CONFIDENT * error), exponential(mean + CONFIDENT * error)


def exponential(nats: float) -> float:
    """Return e to the power of `nats`; infinity where that is too large to write."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def log_probabilities(rows: Rows) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities that logits stand for, along the last axis."""
    shifted = rows.astype(np.float64) - rows.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def divergences(source: Rows, artifact: Rows) -> npt.NDArray[np.float64]:
    """Return KL(source || artifact) of each row, in nats; both have shape (tokens, vocabulary)."""
    # Row by row: with 150,000 tokens of vocabulary, a whole sequence in float64 is gigabytes.
    pairs = zip(source, artifact, strict=True)
    return np.array([_divergence(*(log_probabilities(row) for row in pair)) for pair in pairs])


def margin_of_first(logits: Rows) -> float:
    """Return by how much probability the likeliest token leads the second, of one row of logits."""
    second, first = np.exp(np.partition(log_probabilities(logits), -2)[-2:])
    return float(first - second)


def _divergence(expected: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> float:
    """Return KL(expected || got) of two rows of log-probabilities; rounding does not make it negative."""
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

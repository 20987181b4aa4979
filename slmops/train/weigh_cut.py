"""Weigh a cut: how far the model that is left answers from the uncut one, over text held back from it.

Knows no files. Law: an uncut model's divergence is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from slmops.train.batch import Batch, lay
from slmops.train.objective import cross_entropy, logits_of
from slmops.train.samples import Samples

AT_ONCE = 8
"""Samples read side by side."""
MOST_NUMBERS = 1 << 27
"""Logits of the uncut model that are held in memory: half a gigabyte."""


@dataclass(frozen=True)
class Answers:
    """How a model answers, held against the uncut one."""

    divergence: float
    """Mean of KL(uncut || cut), nats."""
    same: float
    """Share of the tokens, or texts, for which both think the same likeliest, 0..1."""
    nll: float
    """Mean negative log-likelihood of what stands in the text, nats; no number for a classifier."""
    tokens: int

    def figures(self, bytes_of_text: int, uncut: Answers) -> dict[str, float]:
        """Return every figure that is a number by its name, with those that follow from the uncut model's."""
        found = {"kl_mean": self.divergence, "top1": self.same, "tokens": float(self.tokens)}
        if math.isfinite(self.nll) and bytes_of_text:
            per_byte = self.tokens / math.log(2) / bytes_of_text
            found["perplexity_ratio"] = math.exp(min(self.nll - uncut.nll, 700.0))
            found |= {"bits_per_byte": self.nll * per_byte, "source_bits_per_byte": uncut.nll * per_byte}
        return found


class Scale:
    """What the uncut model answers, kept to weigh others by."""

    def __init__(self, model: Any, samples: Samples) -> None:
        """Let `model` read as many of `samples` as its answers may take memory for."""
        self._batches, self._rows, held = list[Batch](), list[torch.Tensor](), 0
        padding = model.config.pad_token_id or 0
        for start in range(0, len(samples), AT_ONCE):
            batch = lay(samples, range(start, min(start + AT_ONCE, len(samples))), padding)
            with torch.inference_mode():
                rows = logits_of(model, batch).log_softmax(-1)
            self._batches.append(batch)
            self._rows.append(rows)
            held += rows.numel()
            if held > MOST_NUMBERS:
                break
        self.samples = sum(len(batch.places) for batch in self._batches)
        """How many of the samples were read."""

    def weigh(self, model: Any) -> Answers:
        """Return how `model` answers."""
        divergence, same, nll, tokens = 0.0, 0, 0.0, 0
        with torch.inference_mode():
            for batch, rows in zip(self._batches, self._rows, strict=True):
                logits = logits_of(model, batch)
                got = logits.log_softmax(-1)
                divergence += float(functional.kl_div(got, rows, reduction="sum", log_target=True))
                same += int((got.argmax(-1) == rows.argmax(-1)).sum())
                nll += float(cross_entropy(logits, batch)) if batch.labels is None else math.nan
                tokens += len(rows)
        # Rounding makes the divergence of a model from itself a little less than nothing.
        return Answers(max(divergence / tokens, 0.0), same / tokens, nll / tokens, tokens)

"""What a model is trained for: a loss over a batch, and the one that needs no teacher.

Law: losses are sums over what is learned, in nats, so that batches, devices and processes add up
to the same mean however the samples are dealt out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional

from slmops.train.batch import Batch


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a batch."""

    total: torch.Tensor
    """What is minimised, summed over `count` tokens or labels; a scalar with a gradient."""
    count: int
    parts: Mapping[str, float] = field(default_factory=dict)
    """What it is made of, each summed likewise: "cross-entropy", "divergence", ..."""


class Objective(Protocol):
    """What a model is trained for."""

    module: torch.nn.Module | None
    """What is learned beside the model and is not kept with it, such as a projection; else None."""

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of `model`, a transformers model (perhaps wrapped), over `batch`."""


class CrossEntropy:
    """How unlikely a model takes what stands in the data to be."""

    module: torch.nn.Module | None = None

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """Return the loss over `batch`."""
        logits = logits_of(model, batch)
        total = cross_entropy(logits, batch)
        return Loss(total, batch.count, {"cross-entropy": total.item()})


def logits_of(model: Any, batch: Batch, **more: Any) -> torch.Tensor:
    """Return the logits at what is learned: [tokens, vocabulary], or [samples, labels] of a classifier."""
    return pick(model(input_ids=batch.ids, attention_mask=batch.mask.long(), **more).logits, batch)


def pick(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the rows that foretell what is learned, of logits at every place of `batch`."""
    return logits if batch.labels is not None else logits[:, :-1][batch.learned[:, 1:]]


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the summed cross-entropy, in nats, of logits that `logits_of` gave."""
    right = batch.labels if batch.labels is not None else batch.ids[:, 1:][batch.learned[:, 1:]]
    return functional.cross_entropy(logits.float(), right, reduction="sum")

"""What a student is trained for: to say what its teacher says, and what stands in the data.

Holds a teacher at hand or what was recorded of one; knows nothing of files. Law: the loss is a sum
over what is learned, weighed (1 - w) cross-entropy + w T^2 divergence, + h distance of hidden states.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch

from slmops.train import top_k
from slmops.train.agreement import Ids
from slmops.train.batch import Batch
from slmops.train.divergences import Dense, Measure, Sums, Target, Top, compare
from slmops.train.hidden_states import HiddenStates
from slmops.train.objective import Loss, logits_of, pick
from slmops.train.on_policy import chosen, write_rest
from slmops.train.teacher import Teacher
from slmops.train.teaching import Teaching
from slmops.train.top_k import TopK


class Recorded(Protocol):
    """What a teacher said of some samples."""

    def said(self, place: int) -> TopK:
        """Return what it said of one."""


class Distillation:
    """The loss of a student, by what its teacher says."""

    def __init__(
        self,
        teacher: Teacher | Mapping[str, Recorded],
        teaching: Teaching,
        *,
        student: Ids | None = None,
        hidden: HiddenStates | None = None,
        stop_ids: Collection[int] = (),
    ) -> None:
        """Learn from a teacher at hand, or from what one said of samples, by the samples' digest.

        `student` are the student's logits that the teacher speaks of, None for all; `hidden` is there
        where `teaching` weighs it; with `stop_ids` a student ends what it writes itself.
        """
        self._teacher, self._teaching, self._hidden, self._stop_ids = teacher, teaching, hidden, stop_ids
        self._shared = None if student is None else torch.from_numpy(student)
        learns = hidden is not None and any(True for _ in hidden.parameters())
        self.module: torch.nn.Module | None = hidden if learns else None

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of `model` over `batch`, or over what it writes itself in its place."""
        if model.training and chosen(self._teaching.on_policy):
            own = write_rest(model, batch, self._stop_ids)
            if own is not None:
                return self._judged(model, own)
        return self._taught(model, batch)

    def _taught(self, model: Any, batch: Batch) -> Loss:
        """Return the loss over what stands in the data."""
        if self._hidden is None:
            logits, target, apart = logits_of(model, batch), self._target(batch), None
        else:
            logits, target, apart = self._with_states(model, batch, self._hidden)
        right = batch.labels if batch.labels is not None else batch.ids[:, 1:][batch.learned[:, 1:]]
        sums = self._compare(logits, right, target, self._teaching.weight)
        parts = {"cross-entropy": sums.cross_entropy, "divergence": sums.divergence}
        if apart is None:
            return Loss(sums.total, batch.count, parts)
        total = sums.total + self._teaching.hidden * apart
        return Loss(total, batch.count, parts | {"hidden": apart.item()})

    def _judged(self, model: Any, own: Batch) -> Loss:
        """Return the loss over what the student wrote: nothing in it is right but what its teacher says."""
        logits, target = logits_of(model, own), self._target(own)
        sums = self._compare(logits, own.ids[:, 1:][own.learned[:, 1:]], target, 1.0)
        return Loss(sums.total, own.count, {"own words": sums.divergence})

    def _compare(self, logits: torch.Tensor, right: torch.Tensor, target: Target, weight: float) -> Sums:
        said = self._teaching
        measure = Measure(said.divergence, weight, said.temperature, said.beta)
        shared = None if self._shared is None else self._shared.to(logits.device)
        return compare(logits, right, target, measure, shared)

    def _target(self, batch: Batch) -> Target:
        if isinstance(self._teacher, Teacher):
            return Dense(self._teacher.logits(batch))
        recorded = self._teacher[batch.samples.digest]
        top = top_k.join([recorded.said(place) for place in batch.places])
        arrays = (top.ids, top.logs, top.rest, top.drawn, top.depth)
        ids, logs, rest, drawn, depth = (torch.from_numpy(each).to(batch.ids.device) for each in arrays)
        return Top(ids, logs, rest, drawn if drawn.shape[1] else None, depth)

    def _with_states(
        self, model: Any, batch: Batch, hidden: HiddenStates
    ) -> tuple[torch.Tensor, Target, torch.Tensor]:
        assert isinstance(self._teacher, Teacher)  # noqa: S101 - what is recorded has no states
        read = model(input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
        logits, states = self._teacher.logits_and_states(batch)
        return pick(read.logits, batch), Dense(logits), hidden(read.hidden_states, states, batch)

"""A teacher at hand: a loaded model that reads a student's batches, and speaks of the student's outcomes.

Pure: it holds a model. Laws: its weights never change; it is in evaluation mode and has no gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from slmops.train.agreement import Agreement, Ids
from slmops.train.batch import Batch
from slmops.train.objective import pick


class Teacher:
    """A transformers model, and what of it is what of the student."""

    def __init__(self, model: Any, agreement: Agreement) -> None:
        """Hold `model`."""
        self._model = model.eval().requires_grad_(False)
        # It never goes on with a text: keys and values of what it read would be kept for nothing.
        model.config.use_cache = False
        self._reads, self._teacher = _tensor(agreement.reads), _tensor(agreement.teacher)

    @property
    def layers_and_width(self) -> tuple[int, int]:
        """Return how many layers it has, and how wide its hidden states are."""
        return layers_and_width(self._model)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return its logits at what is learned: [tokens, outcomes], or [samples, labels] of a classifier."""
        return self._outcomes(self._read(batch).logits, batch)

    def logits_and_states(self, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return the same, and what flows from layer to layer: [samples, length, width] each."""
        read = self._read(batch, output_hidden_states=True)
        return self._outcomes(read.logits, batch), read.hidden_states

    def _read(self, batch: Batch, **more: Any) -> Any:
        device = batch.ids.device
        if next(self._model.parameters()).device != device:
            self._model.to(device)
        # What stands for no token of the teacher's is padding, and masked.
        ids = batch.ids if self._reads is None else self._reads.to(device)[batch.ids].clamp(min=0)
        with torch.no_grad():
            return self._model(input_ids=ids, attention_mask=batch.mask.long(), **more)

    def _outcomes(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        rows = pick(logits, batch)
        return rows if self._teacher is None else rows.index_select(1, self._teacher.to(rows.device))


def layers_and_width(model: Any) -> tuple[int, int]:
    """Return how many layers a transformers model has, and how wide its hidden states are."""
    return int(model.config.num_hidden_layers), int(model.config.hidden_size)


def _tensor(ids: Ids | None) -> torch.Tensor | None:
    return None if ids is None else torch.from_numpy(ids)

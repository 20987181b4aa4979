"""How far what flows through a student lies from what flows through its teacher, layer by layer.

The student's layers are mapped evenly on the teacher's, the last on the last. Where the widths differ, a
linear map per layer, learned beside the student and not kept, brings the student's states to the
teacher's width; it begins as the best there is for the states the student has at first (least squares),
so that it need not be learned before the student can.

Law: the distance is 0 between equals, and 1 of a student that says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slmops.train.batch import Batch
from slmops.train.objective import pick

RIDGE = 1e-3
"""Of the mean square of the student's states: keeps the first map small where few states are known."""
States = Sequence[torch.Tensor]
"""What a transformers model returns as hidden_states: embeddings first, [samples, length, width] each."""


class HiddenStates(torch.nn.Module):  # type: ignore[misc]  # torch says no types
    """Pairs of layers, and the maps between them."""

    def __init__(self, student: tuple[int, int], teacher: tuple[int, int]) -> None:
        """Prepare for models of (layers, width) each."""
        super().__init__()
        self.pairs = pairs(student[0], teacher[0])
        same = student[1] == teacher[1]
        self.maps = torch.nn.ModuleList(
            torch.nn.Identity() if same else torch.nn.Linear(student[1], teacher[1], bias=False)
            for _ in self.pairs
        )

    def fit(self, student: States, teacher: States, batch: Batch) -> None:
        """Begin the maps as the best for the states of one batch."""
        for (own, other), each in zip(self.pairs, self.maps, strict=True):
            if isinstance(each, torch.nn.Linear):
                x, y = (_rows(states.detach(), batch).double() for states in (student[own], teacher[other]))
                square = x.T @ x
                ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), device=x.device)
                each.weight.data.copy_(torch.linalg.solve(square + ridge, x.T @ y).T)

    def forward(self, student: States, teacher: States, batch: Batch) -> torch.Tensor:
        """Return the squared distance over the teacher's square, the mean of the layers, summed over rows."""
        distances = []
        for (own, other), each in zip(self.pairs, self.maps, strict=True):
            x, y = (_rows(states, batch) for states in (student[own], teacher[other]))
            distances.append((((each(x) - y) ** 2).sum(-1) / (y**2).sum(-1).clamp(min=1e-12)).sum())
        return torch.stack(distances).mean()


def pairs(student: int, teacher: int) -> list[tuple[int, int]]:
    """Return which of a teacher's layers each of a student's is held against; layers count from 1."""
    return [(layer, max(1, round(layer * teacher / student))) for layer in range(1, student + 1)]


def _rows(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return a row for each thing that is learned: of classifiers, the mean over a text."""
    if batch.labels is None:
        return pick(states, batch).float()
    mask = batch.mask[..., None]
    return (states * mask).sum(1).float() / mask.sum(1)

"""How far a student is before it learns."""

import torch

from slmops.train.first_loss import LOOKED_AT, first_loss
from slmops.train.objective import Loss
from slmops.train.samples import collect


class _Known:
    """An objective whose divergence of every token is known."""

    module = None

    def __init__(self, parts):
        self.parts, self.seen = parts, 0

    def __call__(self, _model, batch):
        self.seen += len(batch.places)
        total = torch.tensor(3.0 * batch.count)
        return Loss(total, batch.count, {name: each * batch.count for name, each in self.parts.items()})


def samples(count):
    return collect(([1, 2, 3], [False, True, True]) for _ in range(count))


def test_the_divergence_counts_and_the_loss_where_there_is_none():
    model = torch.nn.Linear(1, 1)

    assert first_loss(model, _Known({"divergence": 0.5, "cross-entropy": 2.0}), samples(3), 0) == 0.5
    assert first_loss(model, _Known({}), samples(3), 0) == 3.0


def test_only_the_first_samples_are_looked_at_and_nothing_is_learned():
    model, objective = torch.nn.Linear(1, 1), _Known({})

    first_loss(model, objective, samples(LOOKED_AT + 20), 0)

    assert objective.seen == LOOKED_AT
    assert model.weight.grad is None

"""How fast a model learns at each step, when it is validated, and when it has learned enough.

Pure. Laws: the rate rises along a line to its highest, then falls along half a cosine to a tenth of it,
and is never zero; validations lie evenly, and the last step has one; the best is the first of the lowest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOWEST = 0.1
"""Share of the highest rate at which a run ends."""


def rate(step: int, steps: int, highest: float, warm_up: float) -> float:
    """Return the learning rate of step `step`, from 1 to `steps`; `warm_up` is a share of them."""
    rising = math.ceil(steps * warm_up)
    if step <= rising:
        return highest * step / rising
    done = (step - rising) / max(steps - rising, 1)
    return highest * (LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * done)) / 2)


def is_due(step: int, steps: int, times: int) -> bool:
    """Say whether one of `times` validations lies at `step`, from 1 to `steps`."""
    return step * times // steps > (step - 1) * times // steps


@dataclass(frozen=True)
class Best:
    """The best validation so far: a fold over all of them."""

    loss: float = math.inf
    step: int = 0
    since: int = 0
    """Validations since then."""

    def then(self, step: int, loss: float) -> Best:
        """Return what is best after a validation; one that is no number never is."""
        return Best(loss, step) if loss < self.loss else Best(self.loss, self.step, self.since + 1)

    def is_enough(self, patience: int | None) -> bool:
        """Say whether so many validations brought nothing better that a run may end."""
        return patience is not None and self.since >= patience

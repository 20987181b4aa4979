"""How far a student lies from its teacher before it learns anything: what its first loss comes to."""

from __future__ import annotations

from typing import Any

import torch

from slmops.train.batch import lay
from slmops.train.objective import Objective
from slmops.train.samples import Samples

LOOKED_AT = 64
"""Samples at most."""
TOGETHER = 8


def first_loss(model: Any, objective: Objective, samples: Samples, padding: int) -> float:
    """Return the divergence a token (or label) of `model` over the first of `samples`, in nats.

    Of an objective without a divergence, the loss.
    """
    total, count, places = 0.0, 0, range(min(len(samples), LOOKED_AT))
    model.eval()
    with torch.no_grad():
        for start in places[::TOGETHER]:
            batch = lay(samples, places[start : start + TOGETHER], padding)
            found = objective(model, batch)
            total += found.parts.get("divergence", found.total.item())
            count += found.count
    return total / max(count, 1)

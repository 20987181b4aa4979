"""Join the processes that torchrun or accelerate launch started to train one model.

Law: processes that were started together train together, with or without GPUs, or there is an error;
they never train the same thing side by side.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState

from slmops.errors import TrainingError

PATIENCE = timedelta(days=2)
"""How long processes wait for one another: the first may have answers to write, or a teacher to record."""


def join() -> PartialState:
    """Return the processes, of which this is one; it is the only one where nothing was launched."""
    # Without this word accelerate joins no processes that have no GPU.
    team = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if team.num_processes != started:
        raise TrainingError(
            f"expected {started} processes to train together, got {team.num_processes}",
            remedy="Start them with torchrun or accelerate launch, and without settings of accelerate.",
        )
    return team

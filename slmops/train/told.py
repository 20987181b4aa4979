"""Who hears of a training while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slmops.build.isolate import Progress
from slmops.train.curve import Point


@dataclass(frozen=True)
class Told:
    """Two listeners."""

    doing: Progress
    """Of work that has a name and a share that is done."""
    learned: Callable[[Point], None]
    """Of the steps of a training."""

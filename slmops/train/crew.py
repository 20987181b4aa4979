"""The processes that train one model: each reads its share, and all of them add up what they found.

Knows nothing of disks, schedules or when to stop. Laws: what all processes return is the same; a
gradient is that of the sum over everything that was read, whoever read it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from slmops.train.batch import lay
from slmops.train.deal import Places, draw, parts, share
from slmops.train.objective import Objective
from slmops.train.samples import Samples
from slmops.train.setting import Setting
from slmops.train.trainee import Trainee

AT_ONCE = {"cpu": 1024}
"""Tokens of a part by kind of device: on a CPU more are no faster, and have more padding."""
ELSE = 16384


@dataclass
class Sums:
    """What was found over some samples."""

    loss: float = 0.0
    count: int = 0
    """Tokens, or labels, that were learned or foretold."""
    tokens: int = 0
    """Read, padding not counted."""
    parts: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False
    """Somebody wants a process to end."""

    def add(self, other: Sums) -> None:
        """Add what was found over other samples."""
        self.loss += other.loss
        self.count += other.count
        self.tokens += other.tokens
        self.parts.update(other.parts)
        self.interrupted |= other.interrupted

    @property
    def mean(self) -> float:
        """Return the loss per token or label."""
        return self.loss / max(self.count, 1)

    @property
    def means(self) -> dict[str, float]:
        """Return what the loss is made of, per token or label."""
        return {name: value / max(self.count, 1) for name, value in sorted(self.parts.items())}


class Crew:
    """A model, what it is trained for, and the processes that train it; this is one of them."""

    def __init__(
        self, model: Any, objective: Objective, setting: Setting, team: PartialState, padding: int
    ) -> None:
        """Put the model where this process computes."""
        self._model = model.to(team.device)
        self._objective, self._setting, self._team, self._padding = objective, setting, team, padding
        self._part_tokens = setting.part_tokens or AT_ONCE.get(team.device.type, ELSE)
        module = objective.module
        self.trainee = Trainee(self._model, module if module is None else module.to(team.device), setting)
        self.trainee.train(mode=True)

    def agree(self) -> None:
        """Give all processes the first one's weights."""
        if self._team.num_processes > 1:
            for weight in self.trainee.weights.values():
                torch.distributed.broadcast(weight, 0)

    def learn(self, samples: Samples, places: Places, step: int, *, interrupted: bool) -> Sums:
        """Read the samples of a step, and leave the gradient of their summed loss to be applied."""
        self._seed(step)
        found = self._read(samples, places, learn=True)
        found.interrupted = interrupted
        if self._team.num_processes > 1:
            torch.distributed.all_reduce(self.trainee.gradient)
        return self._together(found)

    def validate(self, samples: Samples) -> Sums:
        """Read all samples and learn nothing."""
        self._seed(0)
        self.trainee.train(mode=False)
        with torch.no_grad():
            found = self._read(samples, np.arange(len(samples)), learn=False)
        self.trainee.train(mode=True)
        return self._together(found)

    def _read(self, samples: Samples, places: Places, *, learn: bool) -> Sums:
        lengths, team, found = samples.lengths, self._team, Sums()
        mine = share(places, lengths, team.process_index, team.num_processes)
        narrow = self._setting.precision != "float32"
        for part in parts(mine, lengths, self._part_tokens):
            batch = lay(samples, part.tolist(), self._padding).to(team.device)
            with torch.autocast(team.device.type, torch.bfloat16, enabled=narrow):
                loss = self._objective(self._model, batch)
            if learn:
                loss.total.backward()
            found.add(Sums(loss.total.item(), loss.count, int(lengths[part].sum()), Counter(loss.parts)))
        return found

    def _together(self, found: Sums) -> Sums:
        if self._team.num_processes == 1:
            return found
        everything = Sums()
        for each in gather_object([found]):
            everything.add(each)
        return everything

    def _seed(self, step: int) -> None:
        torch.manual_seed(draw(self._setting.seed, step, self._team.process_index))

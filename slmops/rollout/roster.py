"""Where every device of a rollout stands: what is told of it is kept, written down and shown.

It does not know what follows from that. One thread has it. Laws: what the history says of a device, and what
it stands at here, is the same whenever a method returns; whoever drives no more writes nothing.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from slmops.rollout import assignment
from slmops.rollout.assignment import State
from slmops.rollout.history import History, Line
from slmops.rollout.machine import Rollout
from slmops.rollout.outcome import Watcher
from slmops.rollout.told import Told
from slmops.rollout.waves import Wave

OFTEN = 1.0
"""Seconds between two notes of a device's progress within a state."""
_PROGRESS = ("step", "what", "done", "whole", "number", "of", "opens")


class Roster:
    """The devices of a rollout over a fleet."""

    def __init__(self, fleet: str, epoch: int, history: History, watcher: Watcher) -> None:
        """Begin with nobody; until `number` is set nothing is written down."""
        self.fleet, self.epoch, self.history, self.watcher = fleet, epoch, history, watcher
        self.number: int | None = None
        self.states: dict[str, State] = {}
        self.messages: dict[str, str] = {}
        self.evidence: dict[str, dict[str, Any]] = {}
        self._shown: dict[str, float] = {}

    def enter(self, names: Iterable[str]) -> None:
        """Let devices wait."""
        self.states |= dict.fromkeys(names, State.WAITING)

    def take_up(self, lines: Sequence[Line]) -> None:
        """Stand where history says everybody stood."""
        for line in lines:
            self.states[line.device] = State(line.state)
            self.evidence[line.device] = line.evidence
            if line.message:
                self.messages[line.device] = line.message

    def hear(self, told: Told) -> None:
        """Take in what happened to a device.

        Raise ImpossibleEventError when that cannot happen now, FencedError when somebody else drives now.
        """
        name = told.device
        # Wherever it is shown, the device's name stands before it.
        told = replace(told, message=told.message.removeprefix(f"{name}: "))
        if told.event is not None:
            self.states[name] = assignment.step(self.states[name], told.event)
            self._keep(told)
        else:
            self._note(told)
        self.watcher.device(told, self.states[name])

    def moved(self, rollout: Rollout) -> None:
        """Write down that the rollout is in another state; raise FencedError as `hear` does."""
        if self.number is not None:
            self.history.moved(self.number, rollout.state.value, rollout.wave, epoch=self.epoch)

    def of(self, wave: Wave) -> list[State]:
        """Return where the devices of a wave stand."""
        return [self.states[device.name] for device in wave.devices]

    def left_anyone_out(self) -> bool:
        """Say whether some device has not got the release though it came to an end."""
        return any(state in assignment.LEFT_OUT for state in self.states.values())

    def _keep(self, told: Told) -> None:
        name = told.device
        if told.message:
            self.messages[name] = told.message
        evidence = self.evidence.setdefault(name, {})
        evidence |= told.said
        if self.number is None:
            return
        self.history.told(
            self.number, name, self.states[name].value, told.message, evidence, epoch=self.epoch
        )
        key = (told.said.get("attested") or {}).get("key")
        if key:
            self.history.keep_device_key(self.fleet, name, key)

    def _note(self, told: Told) -> None:
        now = time.monotonic()
        if self.number is not None and now - self._shown.get(told.device, 0.0) > OFTEN:
            self._shown[told.device] = now
            doing = {key: told.said[key] for key in _PROGRESS if key in told.said}
            self.history.does(self.number, told.device, doing)

"""A rollout as it goes, for people: a live line for each device at a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.progress import TaskID

from slmops.cli.render import ago, err, opens, progress, say, size
from slmops.rollout import assignment, machine
from slmops.rollout.assignment import State
from slmops.rollout.machine import Rollout
from slmops.rollout.told import Told
from slmops.rollout.waves import Wave

SHARE = {State.WAITING: 0, State.SENDING: 10, State.STAGED: 60, State.TRIAL: 65, State.PROVED: 95}
"""How far along a device is, for its bar; ends are 100."""

NAMED = 6
"""Devices of a wave that are named in its line."""


class Follow:
    """Shows a rollout while it is driven. Use it in a `with`."""

    def __init__(self) -> None:
        """Show on a bar of its own."""
        self._bars = progress()
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self._bars.stop()

    def rollout(self, rollout: Rollout, on: Wave | None) -> None:
        """Show where the rollout stands."""
        devices, soak = (on.devices, on.soak) if on is not None else ((), 0.0)
        wave = f"wave {rollout.wave + 1} of {rollout.waves}" + (f" ({on.name})" if on is not None else "")
        names = ", ".join(device.name for device in devices[:NAMED]) + (", ..." if devices[NAMED:] else "")
        said = {
            machine.State.ROLLING: f"{wave}: {names}",
            machine.State.RETURNING: f"{wave}: whoever committed goes back",
            machine.State.SOAKING: f"{wave} passed its gates"
            + (f"; it soaks for {ago(soak)}, then its health is looked at again" if soak else ""),
        }.get(rollout.state, f"rollout {rollout.state.value}")
        self._print(said)
        if rollout.state is machine.State.ROLLING:
            for device in devices:
                self._rows[device.name] = self._bars.add_task(
                    f"  {device.name:<16}", total=100, note="waiting"
                )

    def device(self, told: Told, state: State) -> None:
        """Show what happened to a device."""
        row = self._rows.get(told.device)
        note = _note(told, state)
        if row is not None:
            done = 100.0 if state in assignment.ENDS else _share(told.said, state)
            self._bars.update(row, completed=done, note=note)
        is_news = told.event is not None or told.said.get("step") == "window"
        if _is_kept(told, state) or (is_news and (row is None or not err.is_terminal)):
            self._print(f"  {told.device:<16} {note}")

    def _print(self, text: str) -> None:
        if err.is_terminal:
            self._bars.console.print(text, markup=False)
        else:
            say(text)


def _is_kept(told: Told, state: State) -> bool:
    """Say whether a line stays where bars come and go: what went otherwise than it should."""
    ends_badly = told.event is not None and state in {*assignment.BAD, *assignment.UNKNOWN}
    return ends_badly or told.said.get("step") == "cut" or bool(told.said.get("whole_because"))


def _share(said: dict[str, Any], state: State) -> float:
    here = SHARE.get(state, 0)
    if said.get("whole"):
        return here + 50 * float(said["done"]) / float(said["whole"])
    if said.get("of"):
        return here + 30 * float(said["number"]) / float(said["of"])
    return here


def _note(told: Told, state: State) -> str:
    said = told.said
    if told.event is None:
        return _step(said) or str(said.get("step", state.value))
    if "sent" in said:
        return "; ".join([f"{state.value}: {size(said['sent'])} sent", *said["whole_because"]])
    return f"{state.value}: {told.message}" if told.message else state.value


def _step(said: dict[str, Any]) -> str:
    """Say how far a device is within its state; nothing where the step's own name says it."""
    match said.get("step"):
        case "golden":
            return f"golden prompt {said['number']} of {said['of']}"
        case "sending":
            return f"sending {said['what']}: {size(said['done'])} of {size(said['whole'])}"
        case "window":
            return f"waits for its window, opens {opens(said['opens'], time.time())}"
        case "cut":
            return f"the link broke; trying again ({said['times']} of {said['most']})"
        case _:
            return ""

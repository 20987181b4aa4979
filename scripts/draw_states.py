"""Print the tables of a rollout as pictures for Mermaid, drawn by asking the code itself."""

from collections.abc import Collection, Iterable
from enum import Enum
from itertools import product
from typing import Any

from slmops.fleet.strategy import Strategy
from slmops.rollout import assignment, machine
from slmops.rollout.assignment import State
from slmops.rollout.verdict import Verdict, judge
from slmops.rollout.waves import Wave

Edge = tuple[Enum, Enum, str]
AGAIN = {assignment.Event.RESUME, assignment.Event.FOUND_COMMITTED}
"""What happens to a device only when a rollout is gone on with."""


def device() -> str:
    """Draw a device's part in a rollout, from its first look to its end."""
    return _draw(_device_edges(again=False), start=State.WAITING, ends=assignment.ENDS)


def device_again() -> str:
    """Draw what becomes of a device when its rollout is gone on with."""
    return _draw(_device_edges(again=True))


def rollout() -> str:
    """Draw a rollout under its driver."""
    edges = [edge for edge in _rollout_edges() if edge[0] in machine.DRIVEN]
    return _draw(edges, start=machine.State.PLANNED, ends=machine.ENDS)


def rollout_stops() -> str:
    """Draw how a rollout leaves its stops."""
    return _draw((edge for edge in _rollout_edges() if edge[0] in machine.STOPS), ends=machine.ENDS)


def verdict() -> str:
    """Draw what a device's state makes of its wave, states of one effect together."""
    kinds: dict[tuple[Verdict, ...], list[str]] = {}
    for state in State:
        kinds.setdefault(_effects(state), []).append(state.value)
    lines = ["direction LR"]
    for number, (effects, states) in enumerate(kinds.items()):
        lines.append(f'state "{", ".join(states)}" as kind_{number}')
        lines += [f"kind_{number} --> {said}" for said in _said(*effects)]
    return _fenced(lines)


def _device_edges(*, again: bool) -> Iterable[Edge]:
    for (before, event), after in assignment.TRANSITIONS.items():
        if (event in AGAIN) == again and after is not before:
            yield before, after, event.value


def _rollout_edges() -> Iterable[Edge]:
    """Yield every move, by trying each on rollouts of no, one and two waves that left somebody out or not."""
    tries = product(machine.TRANSITIONS, (0, 1, 2), (False, True), (False, True))
    for (before, event), waves, left_out, stages in tries:
        rollout = machine.Rollout(waves, state=before, left_out=left_out, stages_only=stages)
        after = machine.step(rollout, event).state
        if after is not before:
            yield before, after, event.value


def _effects(state: State) -> tuple[Verdict, Verdict, Verdict]:
    """Return what a wave shows with a device there: over its bound, within it, and so with none good."""
    strict = Strategy(max_failures=0, max_unreachable=0)
    lax = Strategy(max_failures="100%", max_unreachable="100%")

    def judged(states: list[State], strategy: Strategy) -> Verdict:
        return judge(states, strategy, Wave((), 0, "auto", strategy.max_failures, "a wave"))

    both = [State.COMMITTED, state]
    return judged(both, strict), judged(both, lax), judged([state], lax)


def _said(over: Verdict, within: Verdict, alone: Verdict) -> list[str]:
    if over is within is alone:
        return [over.value]
    if over is within:
        return [f"{within.value}: beside a good one", f"{alone.value}: with no good one"]
    return [
        f"{over.value}: over its bound",
        f"{within.value}: within its bound, beside a good one",
        f"{alone.value}: within its bound, with no good one",
    ]


def _draw(edges: Iterable[Edge], start: Enum | None = None, ends: Collection[Any] = ()) -> str:
    """Return a state diagram; all that leads from one state to another stands on one arrow."""
    arrows: dict[tuple[Enum, Enum], dict[str, None]] = {}
    for before, after, event in edges:
        arrows.setdefault((before, after), {})[event] = None
    states = dict.fromkeys(state for arrow in arrows for state in arrow)
    lines = [f'state "{state.value}" as {_id(state)}' for state in states if _id(state) != state.value]
    lines += [f"[*] --> {_id(start)}"] if start else []
    lines += [f"{_id(one)} --> {_id(other)}: {', '.join(said)}" for (one, other), said in arrows.items()]
    lines += [f"{_id(state)} --> [*]" for state in states if state in ends]
    return _fenced(lines)


def _fenced(lines: Iterable[str]) -> str:
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(f"    {line}" for line in lines) + "\n```"


def _id(state: Enum) -> str:
    return str(state.value).replace(" ", "_")


if __name__ == "__main__":
    print("\n\n".join(draw() for draw in (device, device_again, verdict, rollout, rollout_stops)))

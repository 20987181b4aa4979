"""How far a rollout is: bytes sent, how fast they go, and how long the rest may take.

Pure: rows of history and the moment in, numbers out.

Laws: nothing is negative; what is not known (nobody has ended yet, or nobody is at work) is None and not
made up; more devices left never take less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from slmops.rollout.assignment import State
from slmops.rollout.machine import State as Standing
from slmops.rollout.tally import ENDED, Sort, sort_of

if TYPE_CHECKING:
    from slmops.rollout.history import Entry, Line

WINDOW: Final = 30.0
"""Seconds over which a rate is told."""
_SHARES: Final = {
    State.SENDING: (0.0, 0.6),
    State.STAGED: (0.6, 0.6),
    State.TRIAL: (0.65, 0.3),
    State.PROVED: (0.95, 0),
}
"""How much of a device's way lies before a state, and how much within it."""


def share(line: Line) -> float:
    """Return how far along a device is, from 0 to 1."""
    if sort_of(line.state) in ENDED:
        return 1.0
    before, within = next((way for state, way in _SHARES.items() if state.value == line.state), (0.0, 0.0))
    done, whole = (
        line.doing.get("done", line.doing.get("number")),
        line.doing.get("whole", line.doing.get("of")),
    )
    return before + within * min(max(float(done) / float(whole), 0.0), 1.0) if done and whole else before


def sent(lines: Iterable[Line]) -> int:
    """Return the bytes that went to devices, those under way included."""
    return sum(_bytes(line) for line in lines)


def rate(lines: Iterable[Line], now: float) -> float:
    """Return the bytes a second that went to devices lately."""
    begins = now - WINDOW
    went, first = 0.0, now
    for line in lines:
        began = line.entered.get(State.SENDING.value)
        ended = now if line.state == State.SENDING.value else line.entered.get(State.STAGED.value)
        if began is not None and ended is not None and ended > begins:
            first = min(first, max(began, begins))
            went += _bytes(line) * (ended - max(began, begins)) / max(ended - began, 1e-3)
    return max(went, 0.0) / max(now - first, 1.0)


def rest(entry: Entry, lines: Sequence[Line], now: float) -> float | None:
    """Return about how many seconds a rollout that is being driven goes on if nothing fails."""
    took = [line.changed - line.entered[State.SENDING.value] for line in lines if _is_measure(line)]
    if not took or entry.state not in (Standing.ROLLING.value, Standing.SOAKING.value):
        return None
    typical, strategy = max(median(took), 0.0), _strategy(entry)
    busy = [line for line in lines if sort_of(line.state) is Sort.BUSY]
    hands = max(int(strategy.get("max_parallel") or len(busy)), 1)
    spent = [now - line.entered.get(State.SENDING.value, now) for line in busy]
    under_way = max((typical - each for each in spent), default=0.0)
    left = Counter(line.wave for line in lines if sort_of(line.state) is Sort.LEFT)
    waves = sum(math.ceil(count / hands) * typical for count in left.values())
    soaked = now - entry.changed if entry.state == Standing.SOAKING.value else 0.0
    return max(under_way, 0.0) + waves + max(_soaks(entry) - soaked, 0.0)


def _soaks(entry: Entry) -> float:
    """Return the seconds of the soaks that are to come, the one under way included."""
    waves = entry.options.get("waves")
    told = [wave.get("soak") for wave in waves if isinstance(wave, dict)] if isinstance(waves, list) else []
    return float(sum(soak for soak in told[entry.wave :] if isinstance(soak, int | float)))


def _strategy(entry: Entry) -> dict[str, Any]:
    found = entry.options.get("strategy")
    return found if isinstance(found, dict) else {}


def _is_measure(line: Line) -> bool:
    """Say whether a device went all the way and so tells how long that takes."""
    return line.state == State.COMMITTED.value and State.SENDING.value in line.entered


def _bytes(line: Line) -> int:
    found = line.evidence.get("sent", line.doing.get("done", 0) if line.state == State.SENDING.value else 0)
    return max(found, 0) if isinstance(found, int) else 0

"""What a rollout does next: the table.

The whole policy of a rollout stands below: a state, what just happened, and where that leads.
Nothing here waits, connects or reads a clock. `drive` performs the effects and reports back as
events, so a rollout replayed from its history always ends in the same place.

Laws: what the table omits is impossible; an ended rollout never moves again; a sick wave always
leads to its return; every end has one exit code.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from slmops.rollout.assignment import ImpossibleEventError


class State(Enum):
    """Where a rollout stands."""

    PLANNED = "planned"
    CHECKING = "checking"
    ROLLING = "rolling"
    SOAKING = "soaking"
    RETURNING = "returning"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    RETURNED = "went back"
    STUCK = "stuck"
    PAUSED = "paused"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    INTERRUPTED = "interrupted"


class Event(Enum):
    """What can happen to a rollout."""

    STARTED = "started"
    CLEARED = "cleared"
    TURNED_DOWN = "turned down"
    OUT_OF_REACH = "out of reach"
    PASSED = "passed"
    SICKENED = "sickened"
    UNKNOWN = "left unknown"
    SOAKED = "soaked"
    WENT_HOME = "brought back"
    JAMMED = "jammed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout at one moment: the wave it is on, how many there are, and whether devices were left out."""

    waves: int
    wave: int = 0
    state: State = State.PLANNED
    left_out: bool = False


S, E = State, Event

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (S.PLANNED, E.STARTED): S.CHECKING,
    (S.CHECKING, E.CLEARED): S.ROLLING,
    (S.CHECKING, E.TURNED_DOWN): S.REFUSED,
    (S.CHECKING, E.OUT_OF_REACH): S.UNREACHABLE,
    (S.CHECKING, E.STOPPED): S.INTERRUPTED,
    (S.ROLLING, E.PASSED): S.SOAKING,
    (S.ROLLING, E.SICKENED): S.RETURNING,
    (S.ROLLING, E.TURNED_DOWN): S.REFUSED,
    (S.ROLLING, E.UNKNOWN): S.PAUSED,
    (S.ROLLING, E.STOPPED): S.INTERRUPTED,
    (S.SOAKING, E.SOAKED): S.ROLLING,
    (S.SOAKING, E.SICKENED): S.RETURNING,
    (S.SOAKING, E.UNKNOWN): S.PAUSED,
    (S.SOAKING, E.STOPPED): S.INTERRUPTED,
    (S.RETURNING, E.WENT_HOME): S.RETURNED,
    (S.RETURNING, E.JAMMED): S.STUCK,
}

EXIT_CODES: Final[dict[State, int]] = {
    S.SUCCEEDED: 0,
    S.STUCK: 1,
    S.REFUSED: 1,
    S.PARTIAL: 4,
    S.RETURNED: 5,
    S.PAUSED: 6,
    S.UNREACHABLE: 6,
    S.INTERRUPTED: 130,
}
"""One exit code for each end; a state that is none is not an end."""


def step(rollout: Rollout, event: Event) -> Rollout:
    """Return the rollout after `event`."""
    state = TRANSITIONS.get((rollout.state, event))
    if state is None:
        raise ImpossibleEventError(f"a rollout that is {rollout.state.value} cannot be {event.value}")
    if event is Event.SOAKED:
        return _next_wave(rollout)
    if event is Event.CLEARED and rollout.waves == 0:
        return replace(rollout, state=_end(rollout))
    return replace(rollout, state=state)


def _next_wave(rollout: Rollout) -> Rollout:
    wave = rollout.wave + 1
    return replace(rollout, wave=wave, state=_end(rollout) if wave == rollout.waves else State.ROLLING)


def _end(rollout: Rollout) -> State:
    return State.PARTIAL if rollout.left_out else State.SUCCEEDED

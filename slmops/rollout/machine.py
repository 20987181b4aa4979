"""What a rollout does next: the table.

The whole policy of a rollout stands below: a state, what just happened, and where that leads.
Nothing here waits, connects or reads a clock. `drive` performs the effects and reports back as
events, so a rollout replayed from its history always ends in the same place.

Laws: what the table omits is impossible; an ended rollout never moves again; every state is an end, a stop
that somebody may go on from, or one that a driver is in; from every stop there is a way to an end; every
end and every stop has one exit code.
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
    PAUSED = "paused"
    HOLDING = "holding"
    """A wave passed, and the next one waits to be promoted."""
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    STAGED = "staged"
    RETURNED = "went back"
    ABORTED = "aborted"
    STUCK = "stuck"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SUPERSEDED = "superseded"


class Event(Enum):
    """What can happen to a rollout."""

    STARTED = "started"
    CLEARED = "cleared"
    TURNED_DOWN = "turned down"
    OUT_OF_REACH = "out of reach"
    PASSED = "passed"
    SICKENED = "sickened"
    """A bound was crossed, and devices go back."""
    UNKNOWN = "left unknown"
    """Too little is known to go on, or a bound was crossed and somebody is to look first."""
    SOAKED = "soaked"
    HELD = "held"
    WENT_HOME = "brought back"
    JAMMED = "jammed"
    STOPPED = "stopped"
    ABANDONED = "abandoned"
    RESUMED = "resumed"
    PROMOTED = "promoted"
    OVERTAKEN = "overtaken"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout at one moment: the wave it is on, how many there are, and whether devices were left out."""

    waves: int
    wave: int = 0
    state: State = State.PLANNED
    left_out: bool = False
    stages_only: bool = False


S, E = State, Event
STOPS: Final = frozenset({S.PAUSED, S.HOLDING, S.INTERRUPTED})
"""Where a rollout lies that somebody may go on with."""
DRIVEN: Final = frozenset({S.PLANNED, S.CHECKING, S.ROLLING, S.SOAKING, S.RETURNING})
"""Where a rollout stands while it is driven; a driver that was killed leaves it so."""

_LEFT = STOPS | DRIVEN - {S.RETURNING}

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (S.PLANNED, E.STARTED): S.CHECKING,
    (S.CHECKING, E.CLEARED): S.ROLLING,
    (S.CHECKING, E.TURNED_DOWN): S.REFUSED,
    (S.CHECKING, E.OUT_OF_REACH): S.UNREACHABLE,
    (S.CHECKING, E.STOPPED): S.INTERRUPTED,
    (S.ROLLING, E.PASSED): S.SOAKING,
    (S.ROLLING, E.TURNED_DOWN): S.REFUSED,
    (S.ROLLING, E.UNKNOWN): S.PAUSED,
    (S.ROLLING, E.STOPPED): S.INTERRUPTED,
    (S.SOAKING, E.SOAKED): S.ROLLING,
    (S.SOAKING, E.HELD): S.HOLDING,
    (S.SOAKING, E.UNKNOWN): S.PAUSED,
    (S.SOAKING, E.STOPPED): S.INTERRUPTED,
    (S.RETURNING, E.WENT_HOME): S.RETURNED,
    (S.RETURNING, E.JAMMED): S.STUCK,
    # A new driver takes up what one before has left, whether it stopped or was killed.
    (S.PLANNED, E.RESUMED): S.ROLLING,
    (S.CHECKING, E.RESUMED): S.ROLLING,
    (S.ROLLING, E.RESUMED): S.ROLLING,
    (S.SOAKING, E.RESUMED): S.ROLLING,
    (S.RETURNING, E.RESUMED): S.RETURNING,
    (S.PAUSED, E.RESUMED): S.ROLLING,
    (S.INTERRUPTED, E.RESUMED): S.ROLLING,
    (S.HOLDING, E.PROMOTED): S.ROLLING,
    # A wave that is no longer well is judged anew before the next one begins.
    (S.HOLDING, E.RESUMED): S.ROLLING,
    # Whoever abandons it leaves devices as they are, or takes them back.
    **{(state, E.ABANDONED): S.ABORTED for state in State if state in _LEFT},
    **{(state, E.SICKENED): S.RETURNING for state in State if state in _LEFT},
    # Another rollout over the same devices has begun since.
    **{(state, E.OVERTAKEN): S.SUPERSEDED for state in State if state in _LEFT | {S.RETURNING}},
}

EXIT_CODES: Final[dict[State, int]] = {
    S.SUCCEEDED: 0,
    S.STAGED: 0,
    S.HOLDING: 0,
    S.STUCK: 1,
    S.REFUSED: 1,
    S.PARTIAL: 4,
    S.SUPERSEDED: 4,
    S.RETURNED: 5,
    S.ABORTED: 5,
    S.PAUSED: 6,
    S.UNREACHABLE: 6,
    S.INTERRUPTED: 130,
}
"""One exit code for each end and each stop; a state that is neither has none."""
ENDS: Final = frozenset(EXIT_CODES) - STOPS


def step(rollout: Rollout, event: Event) -> Rollout:
    """Return the rollout after `event`."""
    state = TRANSITIONS.get((rollout.state, event))
    if state is None:
        raise ImpossibleEventError(f"a rollout that is {rollout.state.value} cannot be {event.value}")
    if event in (Event.SOAKED, Event.PROMOTED):
        return _next_wave(rollout)
    if state is State.ROLLING and rollout.waves == 0:
        return replace(rollout, state=_end(rollout))
    return replace(rollout, state=state)


def is_last(rollout: Rollout) -> bool:
    """Say whether no wave comes after the one it is on."""
    return rollout.wave + 1 >= rollout.waves


def _next_wave(rollout: Rollout) -> Rollout:
    wave = rollout.wave + 1
    return replace(rollout, wave=wave, state=_end(rollout) if wave >= rollout.waves else State.ROLLING)


def _end(rollout: Rollout) -> State:
    if rollout.left_out:
        return State.PARTIAL
    return State.STAGED if rollout.stages_only else State.SUCCEEDED

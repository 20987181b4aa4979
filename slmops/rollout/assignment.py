"""What one device does in a rollout: the table.

    waiting -> sending -> staged -> trial -> proved -> committed

and the ways out. A device that cannot be reached is not one that failed: `lost` and `failed` have
budgets of their own. Laws: an end never moves, except that a committed device may be returned with
its wave; what the table omits is impossible.
"""

from enum import Enum
from typing import Final

from slmops.errors import SlmopsError


class State(Enum):
    """Where a device stands in the rollout."""

    WAITING = "waiting"
    SENDING = "sending"
    STAGED = "staged"
    TRIAL = "trial"
    PROVED = "proved"
    COMMITTED = "committed"
    ALREADY = "already"
    SKIPPED = "skipped"
    FAILED = "failed"
    LOST = "lost"
    WENT_BACK = "went back"
    RETURNED = "returned"
    STUCK = "stuck"


class Event(Enum):
    """What can happen to a device in a rollout."""

    FOUND_CURRENT = "found current"
    LEFT_OUT = "left out"
    SEND = "send"
    STAGE = "stage"
    TRY = "try"
    PASS = "pass"  # noqa: S105 - not a password
    CONFIRM = "confirm"
    REFUSE = "refuse"
    LOSE = "lose"
    FALL_BACK = "fall back"
    RETURN = "return"
    JAM = "jam"


class ImpossibleEventError(SlmopsError):
    """A rollout was told something that cannot happen now: a fault in slmops itself."""

    code = "SLM-IMPOSSIBLE"
    remedy = "Please report it with the output of `slmops rollout show`."


S, E = State, Event

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (S.WAITING, E.FOUND_CURRENT): S.ALREADY,
    (S.WAITING, E.LEFT_OUT): S.SKIPPED,
    (S.WAITING, E.SEND): S.SENDING,
    # A stop leaves a device out up to the switch; it has not failed.
    (S.SENDING, E.LEFT_OUT): S.SKIPPED,
    (S.STAGED, E.LEFT_OUT): S.SKIPPED,
    (S.SENDING, E.STAGE): S.STAGED,
    (S.STAGED, E.TRY): S.TRIAL,
    (S.TRIAL, E.PASS): S.PROVED,
    (S.PROVED, E.CONFIRM): S.COMMITTED,
    # Before the switch a refusal leaves the device as it was; after it, the device has gone back.
    (S.WAITING, E.REFUSE): S.FAILED,
    (S.SENDING, E.REFUSE): S.FAILED,
    (S.STAGED, E.REFUSE): S.FAILED,
    (S.TRIAL, E.FALL_BACK): S.WENT_BACK,
    (S.TRIAL, E.JAM): S.STUCK,
    (S.TRIAL, E.REFUSE): S.FAILED,
    (S.PROVED, E.REFUSE): S.WENT_BACK,
    # A link may break at any step; the device then decides alone.
    (S.WAITING, E.LOSE): S.LOST,
    (S.SENDING, E.LOSE): S.LOST,
    (S.STAGED, E.LOSE): S.LOST,
    (S.TRIAL, E.LOSE): S.LOST,
    (S.PROVED, E.LOSE): S.LOST,
    # A wave that fails takes its committed devices back.
    (S.COMMITTED, E.RETURN): S.RETURNED,
    (S.COMMITTED, E.JAM): S.STUCK,
}

ENDS: Final = frozenset(
    {S.COMMITTED, S.ALREADY, S.SKIPPED, S.FAILED, S.LOST, S.WENT_BACK, S.RETURNED, S.STUCK}
)
GOOD: Final = frozenset({S.COMMITTED, S.ALREADY})
SWITCHED: Final = frozenset({S.COMMITTED, S.WENT_BACK, S.RETURNED, S.STUCK})
"""Ends of devices that the release has run on in this rollout."""
BAD: Final = frozenset({S.FAILED, S.WENT_BACK, S.STUCK})


def step(state: State, event: Event) -> State:
    """Return the state after `event`."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise ImpossibleEventError(f"a device that is {state.value} cannot {event.value}")
    return after

"""What one device does in a rollout: the table.

    waiting -> sending -> staged -> trial -> proved -> committed

and the ways out. A device that cannot be reached is not one that failed, and neither is one whose gate could
not tell: `lost`, `unproved` and `failed` have budgets of their own.

Laws: an end never moves, except that a committed device may be returned with its wave, and that a rollout
which goes on tries again whoever has not got the release; what the table omits is impossible; every state in
which a device is worked on has a deadline.
"""

from enum import Enum
from typing import Final

from slmops.errors import SlmopsError


class State(Enum):
    """Where a device stands in the rollout."""

    WAITING = "waiting"
    DEFERRED = "deferred"
    """An application on it holds its update lock."""
    SENDING = "sending"
    STAGED = "staged"
    TRIAL = "trial"
    PROVED = "proved"
    COMMITTED = "committed"
    ALREADY = "already"
    SKIPPED = "skipped"
    READY = "ready"
    """Staged, to be activated by a later rollout."""
    QUARANTINED = "quarantined"
    CANCELED = "canceled"
    FAILED = "failed"
    LOST = "lost"
    WENT_BACK = "went back"
    UNPROVED = "unproved"
    """Its gate could not tell; it went back."""
    RETURNED = "returned"
    STUCK = "stuck"


class Event(Enum):
    """What can happen to a device in a rollout."""

    FOUND_CURRENT = "found current"
    LEFT_OUT = "left out"
    DEFER = "defer"
    SEND = "send"
    STAGE = "stage"
    PUT_BY = "put by"
    TRY = "try"
    PASS = "pass"  # noqa: S105 - not a password
    DOUBT = "doubt"
    CONFIRM = "confirm"
    REFUSE = "refuse"
    LOSE = "lose"
    FALL_BACK = "fall back"
    SHUN = "shun"
    CANCEL = "cancel"
    RETURN = "return"
    JAM = "jam"
    RESUME = "resume"
    FOUND_COMMITTED = "found committed"


class ImpossibleEventError(SlmopsError):
    """A rollout was told something that cannot happen now: a fault in slmops itself."""

    code = "SLM-IMPOSSIBLE"
    remedy = "Please report it with the output of `slmops rollout show`."


S, E = State, Event
_UNDER_WAY = (S.WAITING, S.SENDING, S.STAGED, S.TRIAL, S.PROVED)
_WITHOUT = (S.SKIPPED, S.QUARANTINED, S.CANCELED, S.LOST, S.UNPROVED, S.FAILED, S.WENT_BACK)

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (S.WAITING, E.FOUND_CURRENT): S.ALREADY,
    (S.WAITING, E.LEFT_OUT): S.SKIPPED,
    (S.WAITING, E.SHUN): S.QUARANTINED,
    (S.WAITING, E.CANCEL): S.CANCELED,
    (S.WAITING, E.REFUSE): S.FAILED,
    (S.WAITING, E.SEND): S.SENDING,
    (S.SENDING, E.STAGE): S.STAGED,
    (S.STAGED, E.TRY): S.TRIAL,
    (S.STAGED, E.PUT_BY): S.READY,
    (S.TRIAL, E.PASS): S.PROVED,
    (S.PROVED, E.CONFIRM): S.COMMITTED,
    # Somebody asked to stop, another holds it, or it has failed with this before: nothing was switched.
    (S.SENDING, E.CANCEL): S.CANCELED,
    (S.STAGED, E.CANCEL): S.CANCELED,
    (S.SENDING, E.LEFT_OUT): S.SKIPPED,
    (S.STAGED, E.LEFT_OUT): S.SKIPPED,
    (S.TRIAL, E.LEFT_OUT): S.SKIPPED,
    (S.SENDING, E.SHUN): S.QUARANTINED,
    (S.TRIAL, E.SHUN): S.QUARANTINED,
    # An application's update lock: it waits, and is tried again.
    (S.TRIAL, E.DEFER): S.DEFERRED,
    (S.DEFERRED, E.SEND): S.SENDING,
    (S.DEFERRED, E.LEFT_OUT): S.SKIPPED,
    (S.DEFERRED, E.CANCEL): S.CANCELED,
    # What the device refuses, and what it found wrong itself.
    (S.SENDING, E.REFUSE): S.FAILED,
    (S.STAGED, E.REFUSE): S.FAILED,
    (S.TRIAL, E.REFUSE): S.FAILED,
    (S.TRIAL, E.FALL_BACK): S.WENT_BACK,
    (S.TRIAL, E.DOUBT): S.UNPROVED,
    (S.TRIAL, E.JAM): S.STUCK,
    (S.PROVED, E.REFUSE): S.WENT_BACK,
    # A link may break at any step; the device then decides alone.
    **{(state, E.LOSE): S.LOST for state in _UNDER_WAY},
    # A committed device that is seen to have gone back, and one that goes back with its wave.
    (S.COMMITTED, E.FALL_BACK): S.WENT_BACK,
    (S.COMMITTED, E.RETURN): S.RETURNED,
    (S.COMMITTED, E.JAM): S.STUCK,
    # A rollout that goes on asks again where everybody stands, and tries again whoever has not got it.
    **{(state, E.RESUME): S.WAITING for state in (*_UNDER_WAY, S.DEFERRED, *_WITHOUT)},
    **{(state, E.FOUND_COMMITTED): S.COMMITTED for state in (S.TRIAL, S.PROVED, S.LOST)},
    **{(state, E.FALL_BACK): S.WENT_BACK for state in (S.PROVED, S.LOST)},
}

VERBS: Final[dict[State, tuple[str, ...]]] = {
    S.SENDING: ("enroll", "prepare", "compare", "receive", "patch", "stage"),
    S.TRIAL: ("activate",),
    S.PROVED: ("confirm",),
    S.COMMITTED: ("roll-back",),
}
"""What the agent is asked of a device in a state; the last one on its wave's way back."""

UNDER_WAY: Final = frozenset({S.SENDING, S.STAGED, S.TRIAL, S.PROVED})
"""States in which somebody works on the device."""
ENDS: Final = frozenset(
    {
        *(S.COMMITTED, S.ALREADY, S.READY, S.SKIPPED, S.QUARANTINED, S.CANCELED),
        *(S.FAILED, S.LOST, S.WENT_BACK, S.UNPROVED, S.RETURNED, S.STUCK),
    }
)
GOOD: Final = frozenset({S.COMMITTED, S.ALREADY, S.READY})
BAD: Final = frozenset({S.FAILED, S.WENT_BACK, S.STUCK})
UNKNOWN: Final = frozenset({S.LOST, S.UNPROVED})
"""Ends that tell nothing of the release."""
LEFT_OUT: Final = frozenset(_WITHOUT)
"""Ends of devices that do not have the release though their wave may have passed."""
SWITCHED: Final = frozenset({S.COMMITTED, S.WENT_BACK, S.UNPROVED, S.RETURNED, S.STUCK})
"""Ends of devices that the release has run on in this rollout."""


def step(state: State, event: Event) -> State:
    """Return the state after `event`."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise ImpossibleEventError(f"a device that is {state.value} cannot {event.value}")
    return after

"""What a device did while nobody drove its rollout.

Laws: a device that has the release is never worked on again; nothing is concluded from silence; every state
that was left under way is left by this, to where the device itself says it stands.
"""

from slmops.rollout.assignment import ENDS, Event, State
from slmops.rollout.check import Finding

_TRIED = frozenset({State.TRIAL, State.PROVED, State.LOST})
"""States from which a device may have come to an end alone."""
_AGAIN = frozenset({State.LOST, State.SKIPPED, State.CANCELED})
"""Ends of devices that a rollout which goes on tries again."""


def reconcile(state: State, since: float, finding: Finding) -> list[Event]:
    """Return what a device that history left in `state`, at `since`, has come to by what it says now."""
    if state is State.COMMITTED:
        gone = finding.went_back_at is not None and finding.went_back_at > since
        return [Event.FALL_BACK] if gone and not finding.current else []
    if state in ENDS and state not in _AGAIN:
        return []
    if finding.unreachable is not None:
        return [] if state is State.LOST else [Event.RESUME] if state is not State.WAITING else []
    if state in _TRIED and finding.current:
        return [Event.FOUND_COMMITTED]
    if state in _TRIED - {State.LOST} and finding.went_back_at is not None and finding.went_back_at > since:
        return [Event.FALL_BACK]
    again = [] if state is State.WAITING else [Event.RESUME]
    return [*again, *([Event.FOUND_CURRENT] if finding.current else [])]

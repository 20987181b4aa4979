"""What a device did while nobody drove its rollout, and whether it is to be tried again.

Laws: a device that has the release is never worked on again; nothing is concluded from silence; every device
that was left under way is left by this where it says itself that it stands; one on which the release failed
is tried again only where a person has looked first.
"""

from slmops.rollout.assignment import BAD, ENDS, LEFT_OUT, Event, State
from slmops.rollout.check import Finding

_TRIED = frozenset({State.TRIAL, State.PROVED, State.LOST})
"""States from which a device may have come to an end alone."""


def reconcile(state: State, since: float, finding: Finding, *, looked: bool) -> list[Event]:
    """Return what happened to a device that history left in `state` at `since`, by what it says now.

    `looked` says that somebody paused the rollout, looked, and wants it to go on.
    """
    back = finding.went_back_at is not None and finding.went_back_at > since and not finding.current
    if state is State.COMMITTED:
        return [Event.FALL_BACK] if back else []
    if state in ENDS - LEFT_OUT or (state in BAD and not looked):
        return []
    if state in _TRIED and finding.current:
        return [Event.FOUND_COMMITTED]
    if state in _TRIED and back:
        return [Event.FALL_BACK]
    if state is State.QUARANTINED and finding.quarantined:
        return []
    again = [] if state is State.WAITING else [Event.RESUME]
    return [*again, *([Event.FOUND_CURRENT] if finding.current else [])]

"""What a device did while nobody drove its rollout, and whether it is to be tried again.

What a rollout has brought is what the device says that this rollout brought it. To have the release, and to
run it as the fleet file says by now, may be from before: a trial of other settings went back to that.

Laws: a device that has the release, and runs it as told, is never worked on again; nothing is concluded from
silence; every device that was left under way is left by this where it says itself that it stands; one on
which the release failed is tried again only where a person has looked first; of a rollout that tries no more
nobody begins again.
"""

from slmops.rollout.assignment import BAD, ENDS, LEFT_OUT, Event, State
from slmops.rollout.check import Finding
from slmops.rollout.told import Told

_ON_TRIAL = frozenset({State.TRIAL, State.PROVED})
_TRIED = _ON_TRIAL | {State.LOST}
"""States from which a device may have come to an end alone."""


def left_out(finding: Finding) -> list[Told]:
    """Return why a waiting device gets nothing; nothing where it gets the release."""
    name = finding.device.name
    if finding.unreachable is not None:
        return [Told(name, Event.LEFT_OUT, str(finding.unreachable))]
    if finding.has_it:
        return [Told(name, Event.FOUND_CURRENT)]
    return [Told(name, Event.SHUN, finding.quarantined)] if finding.quarantined else []


def reconcile(
    state: State, since: float, finding: Finding, *, rollout: str, looked: bool, ends: bool
) -> list[Event]:
    """Return what happened to a device that `rollout` left in `state` at `since`, by what it says now.

    `looked` says that somebody paused the rollout, looked, and wants it to go on; `ends` that it is
    abandoned, or on its way back: nobody is tried again then, and whoever is on trial decides alone.
    """
    if state is State.COMMITTED:
        # A confirm forgets the failures before it, so that no clocks are compared.
        return [Event.FALL_BACK] if went_back(finding, 0.0, rollout) else []
    if state in ENDS - LEFT_OUT or (state in BAD and not looked):
        return []
    if state in _TRIED and finding.brought_by == rollout and (finding.current or ends):
        return [Event.FOUND_COMMITTED]
    if state in _TRIED and went_back(finding, since, rollout):
        return [Event.FALL_BACK]
    if ends and not (state in _TRIED and finding.has_it):
        return [Event.LOSE] if state in _ON_TRIAL else []
    return _again(state, finding)


def _again(state: State, finding: Finding) -> list[Event]:
    """Return what lets a device wait anew."""
    if state is State.QUARANTINED and finding.quarantined:
        return []
    again = [] if state is State.WAITING else [Event.RESUME]
    return [*again, *([Event.FOUND_CURRENT] if finding.has_it else [])]


def went_back(finding: Finding, since: float, rollout: str) -> bool:
    """Say whether a device went back after `since` from what `rollout` brought, whoever asked for that."""
    at = finding.went_back_at
    return at is not None and at > since and finding.brought_by != rollout

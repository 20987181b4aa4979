"""Which release a device that was away is to come to: the newest that its fleet has proved, and no other.

It knows no registry and no device: it reads what history has of a fleet, newest first. Laws:

- A target is a release that a rollout over this device has brought well to its end (succeeded, or in part);
  a wave that passed is not enough, since whoever goes on with its rollout takes the device along. One that
  only staged has proved nothing: it tells no more than who had the release already.
- The newest word counts. A rollout that is open is waited for. A release that went back, got stuck or was
  aborted in a rollout over this device, or that `rollback` took its fleet back from, is no target by an older
  rollout; a newer one that ends well makes it one again. Rollouts that touched nobody, or that another has
  superseded, count for nothing.
- Who has what its newest rollout brought, who failed where that rollout ended well, who is stuck, whom
  `rollback` took back, and whom no rollout was ever over, stays: its operator decides. But who was away when
  its fleet was taken back from what it has comes to the newest release that is left.
- What lies between is skipped: of a device there is one target, or a reason why there is none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from slmops.rollout import assignment
from slmops.rollout.machine import DRIVEN, STOPS
from slmops.rollout.machine import State as Rollout

S = assignment.State
ENDED_WELL: Final = frozenset({Rollout.SUCCEEDED, Rollout.PARTIAL})
ENDED_BADLY: Final = frozenset({Rollout.RETURNED, Rollout.STUCK, Rollout.ABORTED})
HAS_IT: Final = frozenset({S.COMMITTED, S.ALREADY})
FAILED_IT: Final = assignment.BAD | {S.UNPROVED, S.QUARANTINED}
TAKEN_BACK: Final = frozenset({S.RETURNED, S.STUCK})
"""States of devices that `rollback` has moved, or tried to."""


@dataclass(frozen=True)
class Past:
    """A rollout over a fleet as history has it; of a `rollback`, `left` is what it went back from."""

    number: int
    release: str
    state: Rollout
    devices: Mapping[str, assignment.State]
    left: frozenset[str] | None = None
    stages_only: bool = False
    """It activated nothing anywhere."""


@dataclass(frozen=True)
class Target:
    """Where a device is to come to, a release by the number of its rollout, or None and why it stays."""

    release: str | None
    number: int | None
    why: str


@dataclass
class _Search:
    """What is known of a device so far, on the way back through its rollouts."""

    shunned: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    """Releases that `rollback` took others back from."""
    behind: bool = False
    """It has one of these."""
    found: Target | None = None


def targets(devices: Iterable[str], pasts: Iterable[Past]) -> dict[str, Target]:
    """Return the target of each device; `pasts` are read newest first, and no further than is needed."""
    searches = {name: _Search() for name in devices}
    open_ = set(searches)
    for past in pasts:
        for name in open_ & past.devices.keys():
            _look(searches[name], past, past.devices[name])
        open_ = {name for name in open_ if searches[name].found is None}
        if not open_:
            break
    never = Target(None, None, "no rollout over it has ended well")
    return {name: search.found or never for name, search in searches.items()}


def _look(search: _Search, past: Past, state: assignment.State) -> None:
    """Take in one more rollout over a device, older than all that were looked at before."""
    if past.left is None:
        search.found = _weigh(search, past, state)
        return
    search.left |= past.left
    if state in TAKEN_BACK:
        search.found = Target(None, past.number, f"rollback {past.number} took it back")


def _weigh(search: _Search, past: Past, state: assignment.State) -> Target | None:
    number, release = past.number, past.release
    if past.state in DRIVEN | STOPS:
        return Target(None, number, f"rollout {number} is not over: it is {past.state.value}")
    if state in HAS_IT and not search.behind:
        search.behind = release in search.left
        return None if search.behind else Target(None, number, f"it has {release} by rollout {number}")
    if past.stages_only:
        return None
    if state is S.STUCK or (state in FAILED_IT and past.state in ENDED_WELL):
        return Target(None, number, f"{release} {state.value} on it in rollout {number}")
    if past.state in ENDED_BADLY:
        search.shunned.add(release)
    elif past.state in ENDED_WELL and release not in search.shunned | search.left:
        why = "its fleet was taken back from what it has" if search.behind else "it was away"
        return Target(release, number, why)
    return None

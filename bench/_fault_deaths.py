"""Deaths of the operator: kill -9 as it enters and as it leaves each state of a rollout and of a device.

Entering is before history hears of the state, leaving is when it has heard. Then somebody goes on: what was
done is not done again (the same daemon runs, the journal gains nothing), and all come where they were to be.
A state that no scenario leads to stands in `NOT_PLAYED` with the reason.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from _fault_bed import Bed, until
from _fault_kills import SETTLED
from _person import DEVICE, ENTER, LEAVE, ROLLOUT

from slmops.rollout import assignment, machine

A, R = assignment.State, machine.State
State = assignment.State | machine.State
GOOD, SICK, AGAIN, AWAY, STAGED, BY_HAND = "good", "sick", "again", "away", "stage-only", "by hand"

PLAYED: Final[dict[State, str]] = {
    **dict.fromkeys((R.ROLLING, R.SOAKING, R.SUCCEEDED), GOOD),
    **dict.fromkeys((A.SENDING, A.STAGED, A.TRIAL, A.PROVED, A.COMMITTED), GOOD),
    **dict.fromkeys((R.RETURNING, R.RETURNED, A.WENT_BACK, A.RETURNED), SICK),
    A.ALREADY: AGAIN,
    **dict.fromkeys((R.PARTIAL, A.SKIPPED), AWAY),
    **dict.fromkeys((R.STAGED, A.READY), STAGED),
    R.HOLDING: BY_HAND,
}
"""By which deploy the operator comes to a state."""
_BEFORE = "it is where a rollout and its devices begin: nothing has been asked of any device"
_LOOK = "the devices were looked at and nothing else; history has no line of it that a death could tear"
_RESUMED = "a stop that a person chose: `rollout resume` begins from it as from a death in rolling"
_DEVICE = (
    "the device's own word, written like every other end; the cells of the matrix show where it comes from"
)
NOT_PLAYED: Final[dict[State, str]] = {
    **dict.fromkeys((R.PLANNED, A.WAITING), _BEFORE),
    **dict.fromkeys((R.CHECKING, R.UNREACHABLE, R.REFUSED), _LOOK),
    **dict.fromkeys((R.PAUSED, R.INTERRUPTED, R.ABORTED, R.SUPERSEDED, A.CANCELED), _RESUMED),
    **dict.fromkeys((R.STUCK, A.STUCK, A.FAILED, A.LOST, A.UNPROVED, A.QUARANTINED, A.DEFERRED), _DEVICE),
}


@dataclass(frozen=True)
class Death:
    """Where the operator dies."""

    state: State
    at: str


def all_deaths() -> list[Death]:
    """Return every death that is played."""
    return [Death(state, at) for state, at in product(PLAYED, (ENTER, LEAVE))]


def deaths(bed: Bed, say: Callable[[str], None], every: int = 1) -> tuple[int, list[str]]:
    """Let the operator die at every `every`-th point; return how often, and what broke."""
    first = bed.release()
    if bed.operator(*bed.deploy(first, "--whole")):
        return 0, [f"an undisturbed deploy failed: {bed.operator.said()[-2000:]}"]
    broken: list[str] = []
    played = all_deaths()[::every]
    for number, death in enumerate(played, 1):
        found = [f"{death}: {text}" for text in _play(bed, death)]
        for text in found:
            say(text[:600])
        broken += found
        if number % 8 == 0:
            say(f"{number} of {len(played)} deaths, {len(broken)} breaks")
    return len(played), broken


def _play(bed: Bed, death: Death) -> Iterator[str]:
    scenario = PLAYED[death.state]
    release = bed.release()
    old = {target.name: target.standing().slot for target in bed.targets}
    words = _prepare(bed, scenario, release)
    what = DEVICE if isinstance(death.state, A) else ROLLOUT
    code = bed.operator(*words, die={"what": what, "state": death.state.value, "at": death.at})
    if code != -signal.SIGKILL:
        yield f"the operator did not die: exit code {code}: {bed.operator.said()[-700:]}"
    for target in bed.targets:
        yield from bed.wrong(target, {old[target.name], bed.slots[release]})
    done = {
        target.name: (target.daemons(), target.kinds())
        for target in bed.targets
        if (target.standing().slot, target.standing().trial) == (bed.slots[release], None)
    }
    _mend(bed, scenario)
    if code := bed.go_on(release):
        yield f"going on ended with {code}: {bed.operator.said()[-700:]}"
    yield from bed.converged(release)
    for target in bed.targets if scenario != SICK else ():
        if target.name in done and done[target.name] != (target.daemons(), target.kinds()):
            yield f"{target.name} was done, and was done again: {target.kinds()[-6:]}"


def _prepare(bed: Bed, scenario: str, release: str) -> tuple[str, ...]:
    """Bring the fleet where the scenario begins; return the words of the deploy."""
    terms: dict[str, dict[str, Any]] = {
        SICK: {"max_failures": 0},
        BY_HAND: {"canary": 1, "advance": "manual"},
    }
    bed.strategy(**terms.get(scenario, {"canary": 1}))
    first, *_, last = bed.targets
    if scenario == AGAIN:
        bed.operator(*bed.deploy(release, "--whole", "-l", first.name))
    if scenario == SICK:
        bed.set_device(last.name, runtime=str(bed.broken_runtime))
    if scenario == AWAY:
        bed.unplug(last)
    return bed.deploy(release, "--whole", *(["--stage-only"] if scenario == STAGED else []))


def _mend(bed: Bed, scenario: str) -> None:
    bed.strategy()
    last = bed.targets[-1]
    if scenario == SICK:
        bed.set_device(last.name, runtime=str(bed.runtime))
    if scenario == AWAY:
        bed.plug_in(last)
    until(lambda: all(bed.rests(target) for target in bed.targets), SETTLED)

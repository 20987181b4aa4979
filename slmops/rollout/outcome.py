"""What a rollout is to do, who watches it, and how it ended."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from slmops.errors import FencedError, LockedError, SlmopsError
from slmops.rollout import machine
from slmops.rollout.assignment import State
from slmops.rollout.machine import Rollout
from slmops.rollout.told import Told
from slmops.rollout.waves import Wave

TOLD_WHY: Final = frozenset({State.SKIPPED, State.QUARANTINED, State.LOST, State.FAILED, State.STUCK})
"""Ends of which the last thing that was told of the device says why; who went on has left it behind."""


class Watcher(Protocol):
    """Who is shown the rollout as it goes."""

    def rollout(self, rollout: Rollout, wave: Wave | None) -> None:
        """See that the rollout moved; `wave` is the one it is on."""

    def device(self, told: Told, state: State) -> None:
        """See what happened to a device; `state` is where it stands now."""


@dataclass(frozen=True)
class Errand:
    """What a rollout is to bring, to which fleet, and in whose name."""

    fleet: str
    release: str
    """`name:version`."""
    digest: str
    """Of the release's index."""
    uid: str
    """What devices know the rollout by."""
    epoch: int
    operator: str
    options: dict[str, Any] = field(default_factory=dict)
    """What a driver needs that goes on with it."""
    stages_only: bool = False


@dataclass
class Outcome:
    """How a rollout ended, or where it was left."""

    rollout: Rollout
    states: dict[str, State]
    messages: dict[str, str]
    number: int | None = None
    refusals: list[SlmopsError] = field(default_factory=list)
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was told of each device."""
    why: str = ""
    """Why it stopped where it did, when that is not its end."""

    @property
    def sent(self) -> dict[str, int]:
        """Return the bytes of files that went to each device."""
        return {name: said["sent"] for name, said in self.evidence.items() if "sent" in said}

    @property
    def whole_because(self) -> dict[str, list[str]]:
        """Return for each device why files went to it whole that were to go as a delta."""
        return {
            name: said["whole_because"] for name, said in self.evidence.items() if said.get("whole_because")
        }

    @property
    def remedies(self) -> dict[str, list[str]]:
        """Return what can be done about devices that ended otherwise than they should: for whom is what."""
        found = defaultdict(list)
        for name, said in self.evidence.items():
            if said.get("remedy") and self.states.get(name) in TOLD_WHY:
                found[said["remedy"]].append(name)
        return dict(found)

    @property
    def exit_code(self) -> int:
        """Return the exit code for this end; a refusal's own where it has one (6, 7)."""
        if self.rollout.state is machine.State.REFUSED and self.refusals:
            return max(error.exit_code for error in self.refusals)
        if self.rollout.state is machine.State.PAUSED and self._is_locked_out():
            return LockedError.exit_code
        return machine.EXIT_CODES[self.rollout.state]

    def _is_locked_out(self) -> bool:
        """Say whether nobody got the release, and some because somebody else has them."""
        locked = {LockedError.code, FencedError.code}
        return any(said.get("code") in locked for said in self.evidence.values()) and not any(
            state is State.COMMITTED for state in self.states.values()
        )

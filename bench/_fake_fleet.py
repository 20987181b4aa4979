"""A fleet that is only thought of: devices in this process that fold the real journal and keep real leases.

What a real device decides by `device/trial`, `device/lease` and `device/quarantine` is decided by the same
here; what it does with disks, processes and links is left out. A device is told beforehand what befalls it.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from slmops.device import lease as leases
from slmops.device import quarantine
from slmops.device.lease import Asked, Clock, Tenure
from slmops.device.trial import Standing, fold, may_be_brought_by
from slmops.errors import LockedError, QuarantinedError, UnreachableError
from slmops.fleet.inventory import Device
from slmops.rollout.assignment import Event
from slmops.rollout.check import OPERATOR_GONE, Finding
from slmops.rollout.told import Tell, Told

BOOT = "boot"


class CutError(Exception):
    """The link broke here."""


@dataclass
class FakeDevice:
    """One device: a journal, and what befalls it."""

    name: str
    records: list[dict[str, Any]] = field(default_factory=list)
    staged: set[str] = field(default_factory=set)
    tenure: Tenure = field(default_factory=Tenure)
    online: bool = True
    healthy: bool = True
    fails: bool = False
    """Whatever is brought, its gate finds it bad here."""
    update_lock: bool = False
    cut_at: str = ""
    """Where the link breaks: before or after stage, activate or confirm, as `before stage`."""
    boots: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def standing(self) -> Standing:
        """Return where it stands."""
        return fold(self.records)

    def write(self, kind: str, **said: Any) -> None:
        """Write a record."""
        self.records.append({"kind": kind, "at": time.time(), **said})

    def hold(self, by: Asked) -> None:
        """Be held by a rollout, by the rules."""
        self.tenure = leases.held(self.tenure, by, self.clock())

    def clock(self) -> Clock:
        """Return what time it is there."""
        return Clock(f"{BOOT}-{self.boots}", time.monotonic(), time.time())

    def decide_alone(self) -> None:
        """Go back from a trial that nobody confirmed: its time is up, or there was a reboot."""
        with self.lock:
            here = self.standing
            if here.trial is not None:
                code = "CONFIRM_TIMEOUT" if here.trial.proved else "ACT_TIMEOUT"
                self.write("rolled_back", slot=here.slot, code=code, message="nobody confirmed", evidence={})

    def reboot(self) -> None:
        """Lose power, and come back."""
        self.boots += 1
        self.decide_alone()


class FakeFleet:
    """The way to devices that are only thought of: a `Reach` for one release, driven by one rollout."""

    def __init__(
        self,
        devices: dict[str, FakeDevice],
        slot: str,
        by: Asked,
        outcome: str = "pass",
        *,
        stages_only: bool = False,
    ) -> None:
        """Bring `slot`; its gate comes to `outcome`: pass, fail or inconclusive."""
        self.devices, self.slot, self.by, self.outcome = devices, slot, by, outcome
        self.stages_only = stages_only

    def look(self, device: Device) -> Finding:
        """Look at a device."""
        one = self.devices[device.name]
        if not one.online:
            return Finding(device, unreachable=UnreachableError(f"{device.name} does not answer"))
        with one.lock:
            here = one.standing
            failure = here.failure or {}
            shunned = self._shunned(one)
        return Finding(
            device,
            current=here.slot == self.slot and here.trial is None and one.healthy,
            quarantined="it failed here too often" if shunned else "",
            brought_by=self._brought_by(here),
            went_back_at=failure.get("at") if self._is_to_blame(failure) else None,
        )

    def bring(self, finding: Finding, tell: Tell) -> None:
        """Take a device through its assignment."""
        one, name = self.devices[finding.device.name], finding.device.name
        try:
            tell(Told(name, Event.SEND))
            self._verb(one, "stage", self._stage)
            tell(Told(name, Event.STAGE, said={"sent": 1000, "whole_because": []}))
            if self.stages_only:
                one.tenure = leases.ended(one.tenure)
                tell(Told(name, Event.PUT_BY))
                return
            tell(Told(name, Event.TRY))
            if one.update_lock:
                tell(Told(name, Event.DEFER, "an application holds its update lock"))
                return
            if not self._verb(one, "activate", self._activate):
                doubtful = self.outcome == "inconclusive" and not one.fails
                end = Event.DOUBT if doubtful else Event.FALL_BACK
                tell(Told(name, end, "the golden prompts failed"))
                return
            tell(Told(name, Event.PASS, "15 of 15 golden prompts passed"))
            if not self._verb(one, "confirm", self._confirm):
                tell(Told(name, Event.REFUSE, "the device went back"))
                return
            tell(Told(name, Event.CONFIRM))
        except CutError:
            tell(Told(name, Event.LOSE, "the link broke"))
        except LockedError as error:
            tell(Told(name, Event.LEFT_OUT, str(error)))
        except QuarantinedError as error:
            tell(Told(name, Event.SHUN, str(error)))

    def take_back(self, device: Device, tell: Tell) -> None:
        """Take a device back from the release."""
        try:
            self._verb(self.devices[device.name], "roll-back", self._roll_back)
        except (CutError, LockedError) as error:
            tell(Told(device.name, Event.JAM, str(error)))
            return
        tell(Told(device.name, Event.RETURN))

    def _verb(self, one: FakeDevice, verb: str, act: Any) -> bool:
        if not one.online or one.cut_at == f"before {verb}":
            raise CutError
        with one.lock:
            one.hold(self.by)
            done = bool(act(one))
            if verb in ("confirm", "roll-back") or not done:
                one.tenure = leases.ended(one.tenure)
        # It may have gone meanwhile.
        if one.cut_at == f"after {verb}" or not one.online:
            raise CutError
        return done

    def _shunned(self, one: FakeDevice) -> bool:
        case = quarantine.cases(one.records).get(self.slot)
        if case is None or case.terms is None:
            return False
        return quarantine.until(case, case.terms, time.time()) is not None

    def _is_to_blame(self, failure: dict[str, Any]) -> bool:
        return failure.get("slot") == self.slot and failure.get("code") not in OPERATOR_GONE

    def _brought_by(self, here: Standing) -> str | None:
        moved = here.moved or {}
        committed = here.slot == self.slot and here.trial is None and moved.get("kind") == "activated"
        return moved.get("rollout") if committed else None

    def _stage(self, one: FakeDevice) -> bool:
        one.staged.add(self.slot)
        return True

    def _activate(self, one: FakeDevice) -> bool:
        if self._shunned(one):
            raise QuarantinedError("it failed here too often")
        if (one.standing.slot, one.standing.trial) == (self.slot, None):
            raise AssertionError("a device that has the release is worked on again")
        terms = {"after": 3, "seconds": 86400.0}
        one.write(
            "activated", slot=self.slot, boot=BOOT, deadline=0.0, quarantine=terms, rollout=self.by.rollout
        )
        if self.outcome == "pass" and not one.fails:
            one.write("proved", slot=self.slot, boot=BOOT, deadline=0.0)
            return True
        one.write("rolled_back", slot=self.slot, code="GATE_QUALITY", message="failed", evidence={})
        return False

    def _confirm(self, one: FakeDevice) -> bool:
        here = one.standing
        if here.slot != self.slot or (here.trial is not None and not here.trial.proved):
            return False
        one.write("confirmed", slot=self.slot)
        return True

    def _roll_back(self, one: FakeDevice) -> bool:
        if one.standing.slot == self.slot and may_be_brought_by(one.standing, self.by.rollout):
            one.write("rolled_back", slot=self.slot, code="OPERATOR", message="taken back", evidence={})
        return True


class Unseen:
    """A watcher that shows nothing."""

    def rollout(self, rollout: Any, wave: Any) -> None:
        """See nothing."""

    def device(self, told: Told, state: Any) -> None:
        """See nothing."""

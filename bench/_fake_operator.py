"""An operator with a history who rolls releases out over a fleet that is only thought of."""

from collections.abc import Iterator, Sequence
from itertools import count
from threading import Event as Flag
from typing import Any

from _fake_fleet import FakeDevice, FakeFleet, Unseen

from slmops.device.lease import Asked
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.rollout.check import Finding
from slmops.rollout.drive import Drive
from slmops.rollout.history import History
from slmops.rollout.outcome import Errand, Outcome


class FakeOperator:
    """Who rolls out over the devices of the fleet `fleet`."""

    def __init__(
        self,
        history: History,
        size: int = 6,
        *,
        devices: dict[str, FakeDevice] | None = None,
        epochs: Iterator[int] | None = None,
    ) -> None:
        """Have `size` devices of one's own, or `devices` with somebody whose `epochs` they are as well."""
        self.history = history
        self.devices = devices or {f"d{number}": FakeDevice(f"d{number}") for number in range(size)}
        self.inventory = [Device(name=name, host=name, profile="pi") for name in self.devices]
        self.epochs = epochs or count(1)
        self.watcher: Any = Unseen()
        self.stop = Flag()

    def drive(
        self,
        slot: str = "new",
        outcome: str = "pass",
        *,
        uid: str = "",
        stages_only: bool = False,
        picked: Sequence[Device] = (),
        **strategy: Any,
    ) -> tuple[Drive, list[Finding]]:
        """Return a driver that brings `slot`, and what it found at its first look."""
        epoch = next(self.epochs)
        uid = uid or f"rollout-{epoch}"
        by = Asked(rollout=uid, epoch=epoch, holder="me@here", seconds=60.0)
        reach = FakeFleet(self.devices, slot, by, outcome, stages_only=stages_only)
        kept = {"slot": slot}
        errand = Errand("fleet", f"parrot:{slot}", f"sha256:{slot}", uid, epoch, "me@here", kept, stages_only)
        said = Strategy(**{"canary": 1, "soak": 0, "max_unreachable": 0, **strategy})
        drive = Drive(errand, said, reach, history=self.history, watcher=self.watcher, stop=self.stop)
        return drive, [reach.look(device) for device in picked or self.inventory]

    def roll_out(self, slot: str = "new", outcome: str = "pass", **more: Any) -> Outcome:
        """Roll a release out; return how that ended."""
        drive, findings = self.drive(slot, outcome, **more)
        return drive.run(findings)

    def go_on(self, back: str = "", outcome: str = "pass") -> Outcome:
        """Take up the latest rollout; return how that ended."""
        entry = self.history.find(None)
        if entry is None:
            raise LookupError("there is nothing to take up")
        lines = self.history.devices(entry.id)
        meant = {line.device for line in lines if line.wave > 0 or line.state == "waiting"}
        picked = [device for device in self.inventory if device.name in meant]
        drive, findings = self.drive(
            entry.options["slot"], outcome, uid=entry.uid, picked=picked, **entry.options["strategy"]
        )
        return drive.go_on(entry, findings, back)

    def serve(self) -> dict[str, str | None]:
        """Return what each device serves, committed or not."""
        return {name: device.standing.slot for name, device in self.devices.items()}

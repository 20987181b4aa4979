"""What a rollout asks of a device, however the device is reached.

Over SSH it is `apply`; a fleet that is only thought of answers the same. Many are looked at at once.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from slmops.fleet.ask_all import AT_ONCE, ask_all
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.rollout.check import Finding
from slmops.rollout.told import Tell


class Reach(Protocol):
    """The way to devices."""

    def look(self, device: Device) -> Finding:
        """Look at a device and change nothing there; what is wrong stands in the finding."""

    def bring(self, finding: Finding, tell: Tell) -> None:
        """Take one device through its assignment; every step and every end is told, none is raised."""

    def take_back(self, device: Device, tell: Tell) -> None:
        """Make a device that committed serve what it served before; how that ended is told."""


def look_at_all(
    devices: Sequence[Device], reach: Reach, strategy: Strategy, each: Callable[[Finding], None]
) -> list[Finding]:
    """Look at every device, many at a time; return what was found, in the same order."""
    return ask_all(devices, reach.look, max(strategy.max_parallel, AT_ONCE), each)

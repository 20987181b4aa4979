"""Which devices a command is about: one by name or address, or those of a fleet file."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.errors import UsageError
from slmops.fleet import address
from slmops.fleet.inventory import Device
from slmops.fleet.load import find, load_fleet
from slmops.fleet.selector import select

FleetOption = Annotated[
    Path | None, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Take devices from here.")
]
Host = Annotated[
    str, typer.Argument(metavar="DEVICE", help="[user@]host[:port], or a device's name with --fleet.")
]


def targets(host: str, fleet: Path | None, selector: str = "") -> list[Device]:
    """Return the device that is meant, or with a fleet file and no name those that the selector picks."""
    if fleet is None:
        return [at(host)]
    _, devices = load_fleet(fleet)
    return [find(devices, host)] if host else select(devices, selector)


def at(host: str) -> Device:
    """Return a device of no fleet, from `[user@]host[:port]`."""
    if not host:
        raise UsageError("which host? Give [user@]host[:port], or --fleet FLEET.yaml")
    user, name, port = address.parse(host)
    return Device(name=name, host=name, user=user, port=port)

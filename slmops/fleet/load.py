"""Read a fleet file; paths in it are relative to the file."""

from dataclasses import replace
from pathlib import Path

from slmops import document
from slmops.errors import DocumentError
from slmops.fleet.inventory import Device, Fleet


def load_fleet(path: Path) -> tuple[Fleet, list[Device]]:
    """Return the fleet and its devices; raise DocumentError naming file, line and key."""
    fleet = document.load(path, Fleet, remedy="Print the schema of a fleet file: slmops schema fleet")
    folder = path.resolve().parent
    return fleet, [_anchored(device, folder) for device in fleet.resolved()]


def find(devices: list[Device], name: str) -> Device:
    """Return the device called `name`."""
    for device in devices:
        if device.name == name:
            return device
    there = ", ".join(device.name for device in devices[:12])
    raise DocumentError(f"the fleet has no device {name!r}; it has {there}", remedy="Name one of those.")


def require_identity(device: Device) -> None:
    """Raise DocumentError when the private key that a fleet file names for a device is not there."""
    if device.identity is not None and not Path(device.identity).is_file():
        raise DocumentError(
            f"{device.name}: the key file {device.identity} is not there",
            remedy="Correct `identity` in the fleet file; it is relative to that file.",
        )


def _anchored(device: Device, folder: Path) -> Device:
    return replace(
        device,
        identity=_anchor(device.identity, folder),
        known_hosts=_anchor(device.known_hosts, folder),
    )


def _anchor(path: str | None, folder: Path) -> str | None:
    return None if path is None else str(folder / Path(path).expanduser())

"""slmops device: one device at a time."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.cli import home
from slmops.cli.options import ask_first, verb
from slmops.cli.render import out, say, table
from slmops.errors import UsageError
from slmops.fleet import address, agent, known_hosts
from slmops.fleet.inventory import Device
from slmops.fleet.load import find, load_fleet
from slmops.fleet.ssh import Link, shown_key

app = verb("One device: trust its host key, read its logs, remove slmops from it.", group=True)
FleetOption = Annotated[
    Path | None, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Take devices from here.")
]


@app.command()
def trust(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="[user@]host[:port], or a device's name with --fleet.")
    ] = "",
    fleet: FleetOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask; the fingerprints are still shown.")
    ] = False,
) -> None:
    """Show a host's key fingerprint and, when you agree, trust it from now on.

    With --fleet and no HOST: every device of the fleet.
    """
    shown = [(device, shown_key(device, home.known_hosts())) for device in _targets(host, fleet)]
    names = [known_hosts.name_of(device.host, device.port) for device, _ in shown]
    marks = [
        (name, key.get_name(), known_hosts.fingerprint(key))
        for name, (_, key) in zip(names, shown, strict=True)
    ]
    table(("host", "key", "fingerprint"), marks)
    if not yes:
        ask_first("Are these the devices' own fingerprints?")
    file = home.folder() / "known_hosts"
    for name, (_, key) in zip(names, shown, strict=True):
        known_hosts.trust(file, name, key)
    say(f"Trusted {len(names)} host key{'s' if len(names) > 1 else ''} in {file}.")


@app.command()
def logs(
    host: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name.")],
    fleet: Annotated[Path, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="The fleet file.")],
    lines: Annotated[int, typer.Option(help="How many lines.", min=1)] = 50,
) -> None:
    """Print the last lines of a device's daemon."""
    with Link(_targets(host, fleet)[0], home.known_hosts()) as link:
        for line in agent.call(link, "logs", {"lines": lines})["lines"]:
            out.print(line, markup=False, soft_wrap=True)


@app.command()
def retire(
    host: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name.")],
    fleet: Annotated[Path, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="The fleet file.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the daemon and remove all that slmops ever put on the device."""
    device = _targets(host, fleet)[0]
    if not yes:
        ask_first(f"Remove slmops, its releases and its records from {device.name}?")
    with Link(device, home.known_hosts()) as link:
        agent.call(link, "retire")
    say(f"{device.name} is as it was before slmops.")


def _targets(host: str, fleet: Path | None) -> list[Device]:
    if fleet is not None:
        _, devices = load_fleet(fleet)
        return [find(devices, host)] if host else devices
    return [at(host)]


def at(host: str) -> Device:
    """Return a device of no fleet, from `[user@]host[:port]`."""
    if not host:
        raise UsageError("which host? Give [user@]host[:port], or --fleet FLEET.yaml")
    user, name, port = address.parse(host)
    return Device(name=name, host=name, user=user, port=port)

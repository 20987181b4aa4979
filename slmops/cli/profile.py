"""slmops profile: what a device can bear."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from slmops import document
from slmops.cli import home
from slmops.cli.device import at
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, size, table
from slmops.fleet import probe
from slmops.fleet.load import find, load_fleet
from slmops.fleet.ssh import Link
from slmops.profile.detect import as_profile
from slmops.profile.device import DeviceProfile
from slmops.profile.load import load_profile, load_profiles
from slmops.profile.match import nearest

app = verb("Device profiles: what a device can bear.", group=True)


@app.command("list")
def list_(output: Output = Form.TABLE) -> None:
    """List the profiles that come with slmops, and your own in $SLMOPS_HOME/profiles."""
    found = load_profiles(home.profiles())
    if output is Form.JSON:
        emit([profile.model_dump(mode="json") for profile in found])
        return
    rows = [
        (
            p.name,
            p.title,
            p.arch,
            p.cpu.cores,
            size(p.memory.total),
            f"{p.memory.bandwidth / 1e9:.1f} GB/s",
            ", ".join(p.formats),
        )
        for p in found
    ]
    table(("profile", "device", "arch", "cores", "memory", "bandwidth", "formats"), rows)


@app.command()
def show(
    profile: Annotated[str, typer.Argument(help="Name, or a .yaml file.")], output: Output = Form.TABLE
) -> None:
    """Show a profile as YAML: a starting point for your own."""
    _print(load_profile(profile, home.profiles()), output)


@app.command()
def detect(
    host: Annotated[str, typer.Argument(metavar="HOST", help="[user@]host[:port], or a name with --fleet.")],
    fleet: Annotated[
        Path | None, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Take HOST from here.")
    ] = None,
    name: Annotated[str, typer.Option(help="What to call the profile.")] = "detected",
    output: Output = Form.TABLE,
) -> None:
    """Read a live device over SSH and print its profile. Nothing is installed there.

    slmops profile detect pi@kitchen > ~/.local/share/slmops/profiles/kitchen.yaml
    """
    device = find(load_fleet(fleet)[1], host) if fleet is not None else at(host)
    with Link(device, home.known_hosts()) as link:
        facts = probe.facts(link)
    like = nearest(facts, load_profiles(home.profiles()))
    say(
        f"{host} is like {like.name}."
        if like
        else f"{host} is like no profile known here; its speed is a guess."
    )
    _print(as_profile(facts, name, like), output)


def _print(profile: DeviceProfile, output: Form) -> None:
    if output is Form.JSON:
        emit(profile.model_dump(mode="json"))
    else:
        sys.stdout.write(document.dumps(profile))

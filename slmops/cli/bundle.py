"""slmops bundle: releases for devices with no link, in a folder that somebody brings."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from slmops.artifact.runtime import Platform
from slmops.cli import home
from slmops.cli.auditing import audited
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, emit, say, size, table
from slmops.errors import ReleaseError, UsageError
from slmops.fleet.inventory import AUTO, Device
from slmops.fleet.load import find, load_fleet
from slmops.fleet.strategy import Strategy
from slmops.profile.load import load_profile
from slmops.registry import catalog, runtimes
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.rollout import check_bundle, write_bundle
from slmops.rollout import order as orders
from slmops.rollout.write_bundle import Contents

app = verb("Bundles for devices with no link: create, show.", group=True)
_SPAN = re.compile(r"([1-9][0-9]{0,3})(h|d|w)")
_SECONDS = {"h": 3600, "d": 86400, "w": 604800}


@app.command()
@audited("bundle create")
def create(
    usb: Annotated[Path, typer.Option("--usb", metavar="DIR", help="The folder to write, say on a stick.")],
    release: Annotated[str, typer.Option(help="NAME:VERSION, as `slmops release list` says it.")],
    profile: Annotated[str, typer.Option(help="The profile of the devices it is for.")],
    device: Annotated[
        list[str] | None,
        typer.Option(help="A device it is for; again for more. Default: one named as the profile."),
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", "-f", metavar="FLEET.yaml", help="Take devices from here.")
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime bundle NAME:VERSION, auto, or the path of a Python on the device.")
    ] = AUTO,
    valid: Annotated[str, typer.Option(help="How long it may be installed: 12h, 30d, 8w.")] = "30d",
    output: Output = Form.TABLE,
) -> None:
    """Write a folder from which a device with no link installs a release by itself.

    The device checks the same signatures, asks the same golden prompts and goes back by itself when they
    are not answered; nobody has to confirm.
    """
    span = _SPAN.fullmatch(valid)
    if span is None:
        raise UsageError(f"--valid: expected a span such as 12h, 30d or 8w; got {valid!r}")
    devices = _devices(device or [], fleet, profile, runtime)
    layout = Layout(home.registry())
    signed = releases.find(layout, catalog.parse(release))
    if any(runtimes.is_runtime(releases.artifact(layout, entry)) for _, entry in signed.release.artifacts):
        raise ReleaseError(
            f"{release} is a runtime bundle, not a release of a model",
            remedy=f"Name a model's: `slmops release list`. The runtime goes with it: --runtime {release}",
        )
    order = orders.take(layout, signed, home.mandate())
    model = order.parcel(devices[0])
    bundled = order.runtime(devices[0], _platform(model.signed.release.entry(profile).arch, profile))
    strategy = load_fleet(fleet)[0].rollout if fleet is not None else Strategy()
    seconds = int(span[1]) * _SECONDS[span[2]]
    written = write_bundle.write(usb, Contents(model, bundled, order.mandate, devices, strategy, seconds))
    said = {
        "folder": str(usb),
        "release": release,
        "runtime": bundled and bundled.signed.release.reference,
        "devices": [each.name for each in devices],
        "bytes": written,
    }
    if output is Form.JSON:
        emit(said)
        return
    say(f"Wrote {size(written)} to {usb}: {release} for {', '.join(each.name for each in devices)}.")
    if bundled is None:
        say("It has no runtime bundle: the device needs a Python of its own with slmops[daemon].")
    name = " NAME" if len(devices) > 1 else ""
    say(f"At the device: python3 agent.pyz ~/.slmops install .{name} (README.txt says more)")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder.")], output: Output = Form.TABLE
) -> None:
    """Check a bundle as a device would, every signature and every byte, and say what it is."""
    checked = check_bundle.check(folder)
    yours = checked.trust.digest in home.mandate().digests
    said = {**asdict(checked), "trust": checked.trust.digest, "yours": yours}
    if output is Form.JSON:
        emit(said)
        return
    rows = [(key, said[key]) for key in ("release", "runtime", "profile")]
    rows += [("bytes", size(checked.bytes)), ("signed by your keys", "yes" if yours else "no")]
    rows += [
        (f"for {name}", f"until {until}" if until else "always") for name, until in checked.devices.items()
    ]
    table(("bundle", str(folder)), rows)


def _devices(names: list[str], fleet: Path | None, profile: str, runtime: str) -> list[Device]:
    """Return whom the bundle is for, each with the profile it is written for."""
    if fleet is None:
        made = names or [profile]
        return [Device(name=name, host=name, profile=profile, runtime=(runtime,)) for name in made]
    _, known = load_fleet(fleet)
    chosen = [find(known, name) for name in names] or [each for each in known if each.profile == profile]
    strange = [each.name for each in chosen if each.profile != profile]
    if strange or not chosen:
        raise UsageError(f"profile {profile}: expected devices of it, got {', '.join(strange) or 'none'}")
    return chosen


def _platform(arch: str, profile: str) -> Platform:
    """Return for which runtime bundles the devices of a profile are."""
    python = load_profile(profile, home.profiles()).system.python or "3.11"
    return Platform(arch, ".".join(python.split(".")[:2]))

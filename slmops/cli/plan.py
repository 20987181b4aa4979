"""slmops plan: what a deploy would do to each device."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.cli import home
from slmops.cli.foresee import foresee
from slmops.cli.options import FleetFile, Selector, verb
from slmops.cli.plan_view import refused, show_plan
from slmops.cli.render import Form, Output, out, say
from slmops.errors import DocumentError, UsageError
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.registry.layout import Layout
from slmops.rollout import plan as plans
from slmops.rollout.plan import Plan

app = verb("What a deploy would do to each device: bytes, head-room, wave, time; it touches nothing.")


@app.command()
def plan(
    fleet: FleetFile,
    release: Annotated[str, typer.Option(help="NAME:VERSION, or NAME@CHANNEL.")],
    selector: Selector = "",
    delta: Annotated[
        bool, typer.Option("--delta/--whole", help="Send what files differ by, or every file whole.")
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option("--out", metavar="PLAN.json", help="Keep it here, for `slmops deploy --plan`."),
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    """Show what a deploy would do to each device, and touch none of them.

    Every device is looked at: the artifact it would get, the bytes that would be sent, what memory and disk
    would be left, its wave, and how long it may take by what earlier rollouts of this fleet took. `slmops
    deploy --plan PLAN.json` does what a kept plan says, or refuses when the world has moved since.

    Exit codes, as deploy's: 0 it would begin, 1 a device cannot take the release, 6 too many are out of reach
    or a host key is not trusted, 7 a signature or digest does not hold.
    """
    whole, devices = load_fleet(fleet)
    layout = Layout(home.registry())
    with layout.in_use():
        picked = select(devices, selector)
        made = foresee(layout, whole, picked, release, selector=selector, delta=delta).plan
    show_plan(made, output, on=out)
    if keep is not None:
        write_plan(keep, made)
        say(f"Kept in {keep}: slmops deploy {fleet} --plan {keep}")
    if made.exit_code:
        say(refused(made))
        raise typer.Exit(made.exit_code)


def write_plan(path: Path, made: Plan) -> None:
    """Keep a plan in a file; raise UsageError when it cannot be written."""
    try:
        path.write_bytes(plans.render(made))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", remedy="Name another file."
        ) from error


def read_plan(path: Path) -> Plan:
    """Read a plan that was kept; raise DocumentError when it is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(
            f"{path} cannot be read: {error.strerror}", remedy="Write one: slmops plan ... --out PLAN.json"
        ) from error
    return plans.parse(data, str(path))

"""slmops deploy: bring a release to a fleet, a few devices at a time."""

from pathlib import Path
from typing import Annotated

import typer

from slmops.cli.auditing import audited
from slmops.cli.driving import Asked, Options, roll_out
from slmops.cli.options import FleetFile, Selector, Yes, verb
from slmops.cli.plan import read_plan
from slmops.cli.render import Form, Output
from slmops.errors import UsageError
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select

app = verb("Bring a release to a fleet in waves; what fails its golden prompts goes back.")


@app.command()
@audited("deploy")
def deploy(
    fleet: FleetFile,
    release: Annotated[
        str, typer.Option(help="NAME:VERSION, or NAME@CHANNEL. Default: the one of --plan.")
    ] = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; touch nothing.")] = False,
    selector: Selector = "",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.json", help="Do what `slmops plan --out` kept, if the world is still so."),
    ] = None,
    delta: Annotated[
        bool, typer.Option("--delta/--whole", help="Send what files differ by, or every file whole.")
    ] = True,
    stage_only: Annotated[
        bool,
        typer.Option("--stage-only", help="Send now and activate nowhere; the same deploy later does that."),
    ] = False,
    override_lock: Annotated[
        bool, typer.Option("--override-lock", help="Do not wait for applications that hold an update lock.")
    ] = False,
    output: Output = Form.TABLE,
) -> None:
    """Bring a release to a fleet in waves; what fails its golden prompts goes back.

    Every device is looked at first. Nothing is sent when one cannot bear the release, or when more are out
    of reach than the fleet file allows. Each device verifies the signature, stages the release, puts it on
    trial and asks its golden prompts; it commits only after you were reached again over a new connection.

    Exit codes: 0 done, or held for `rollout promote`; 1 refused, 4 some devices left out, 5 a wave failed and
    went back, 6 unreachable or paused, 7 a signature or digest does not hold, 8 locked, 130 interrupted.
    """
    whole, devices = load_fleet(fleet)
    planned = read_plan(plan) if plan is not None else None
    if planned is None and not release:
        raise UsageError("which release?", remedy="Add --release NAME:VERSION, or --plan PLAN.json.")
    if planned is not None and release not in ("", planned.release):
        raise UsageError(f"{plan} is a plan for {planned.release}, not {release}", remedy="Give one of both.")
    picked = selector or (planned.selector if planned is not None else "")
    asked = Asked(
        planned.release if planned is not None else release,
        ask=not yes,
        dry_run=dry_run,
        delta=delta,
        output=output,
        selector=picked,
        file=fleet,
        plan=planned,
        options=Options(stage_only=stage_only, override_lock=override_lock),
    )
    outcome = roll_out(whole, select(devices, picked), asked)
    if outcome is not None:
        raise typer.Exit(outcome.exit_code)

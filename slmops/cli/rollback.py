"""slmops rollback: go back."""

from typing import Annotated, Any

import typer

from slmops.cli import home
from slmops.cli.deploy import Asked, roll_out
from slmops.cli.options import FleetFile, Selector, Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, table
from slmops.cli.status import ask_all
from slmops.errors import PartialError, SlmopsError, UnreachableError, UsageError
from slmops.fleet import ask_all as asking
from slmops.fleet.inventory import Device
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.fleet.ssh import Link
from slmops.fleet.strategy import Strategy
from slmops.rollout import apply

app = verb("Go back to the release before, or to a given version.")


@app.command()
def rollback(
    fleet: FleetFile,
    to: Annotated[
        str,
        typer.Option(
            help="Version (or NAME:VERSION) to go to, in waves; its files are on most devices still."
        ),
    ] = "",
    yes: Yes = False,
    selector: Selector = "",
    output: Output = Form.TABLE,
) -> None:
    """Go back to the release before, or to a given version.

    Without --to every device serves its previous slot again, at once and without a transfer, and proves it
    by its golden prompts. Exit codes: 0 all went back, 1 none did, 4 some did not, 6 some were unreachable.
    """
    whole, devices = load_fleet(fleet)
    picked = select(devices, selector)
    rows = ask_all(picked, max(whole.rollout.max_parallel, 32))
    if to:
        release = to if ":" in to else f"{_name(rows)}:{to}"
        asked = Asked(release, ask=not yes, dry_run=False, delta=True, output=output)
        outcome = roll_out(whole, picked, asked)
        raise typer.Exit(outcome.exit_code if outcome is not None else 0)
    if not yes:
        shown = [(row["device"], row.get("release"), row.get("previous"), row["health"]) for row in rows]
        table(("device", "serves", "goes back to", "health"), shown)
        ask_first(f"Take {sum(map(_can, rows))} of {len(rows)} devices back?")
    stood = dict(zip(picked, rows, strict=True))
    ends = asking.ask_all(
        picked, lambda device: _go_back(device, stood[device], whole.rollout), whole.rollout.max_parallel
    )
    if output is Form.JSON:
        emit(ends)
    else:
        table(("device", "outcome", "serves", "message"), [list(end.values())[:4] for end in ends])
    if any(end["outcome"] == "unreachable" for end in ends):
        raise typer.Exit(UnreachableError.exit_code)
    if any(end["outcome"] not in ("ok", "stays") for end in ends):
        some = any(end["outcome"] == "ok" for end in ends)
        raise typer.Exit(PartialError.exit_code if some else SlmopsError.exit_code)


def _can(row: dict[str, Any]) -> bool:
    return row.get("previous") is not None


def _name(rows: list[dict[str, Any]]) -> str:
    """Return the name of the release this fleet runs, whatever the versions."""
    names = {str(row["release"]).partition(":")[0] for row in rows if row.get("release")}
    if len(names) != 1:
        raise UsageError(
            f"--to needs one release name, these devices run {', '.join(sorted(names)) or 'none'}",
            remedy="Use `slmops deploy FLEET.yaml --release NAME:VERSION`, or narrow it with -l.",
        )
    return names.pop()


def _go_back(device: Device, row: dict[str, Any], strategy: Strategy) -> dict[str, Any]:
    end = {
        "device": device.name,
        "outcome": "failed",
        "serves": row.get("release"),
        "message": row.get("remark", ""),
    }
    if row["health"] == "unreachable" or not row.get("digest"):
        return {**end, "outcome": "unreachable" if row["health"] == "unreachable" else "no release"}
    if not _can(row):
        return {**end, "outcome": "stays", "message": "nothing to go back to"}
    try:
        with Link(device, home.known_hosts()) as link:
            answer = apply.go_back(link, row["digest"].partition(":")[2], strategy)
    except UnreachableError as error:
        return {**end, "outcome": "unreachable", "message": str(error)}
    except SlmopsError as error:
        return {**end, "message": f"{error}"}
    passed = answer["outcome"] == "pass"
    return {
        **end,
        "outcome": "ok" if passed else "failed",
        "serves": row.get("previous"),
        "message": answer["message"],
    }

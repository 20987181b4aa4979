"""slmops rollback: go back, and write down that it was meant.

Law: a release that a fleet was taken back from is brought again by nobody but a newer rollout: history says
which were left, and `rollout/target` heeds it.
"""

from typing import Annotated, Any

import typer

from slmops.cli.auditing import audited
from slmops.cli.driving import Asked, roll_out
from slmops.cli.options import FleetFile, Selector, Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, say, table
from slmops.cli.status import ask_all
from slmops.cli.take_back import can, goes_back_to, take_back
from slmops.errors import LockedError, PartialError, SlmopsError, UnreachableError, UsageError
from slmops.fleet.ask_all import AT_ONCE
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select

app = verb("Go back to the release before, or to a given version.")


@app.command()
@audited("rollback")
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

    Without --to every device serves again what it served before, at once and without a transfer, and proves
    it by its golden prompts: its previous slot or, where a deploy changed only how the daemon is run, this
    one as it was run before (put the fleet file back too then). Asked again, who has gone back goes no
    further. A release that was left comes back by a new deploy alone: `slmops rollout catch-up` brings it to
    nobody. Exit codes: 0 all went back, 1 none did, 4 some did not, 6 some were unreachable, 8 somebody else
    has some of them, or the fleet.
    """
    whole, devices = load_fleet(fleet)
    picked = select(devices, selector)
    rows = ask_all(picked, max(whole.rollout.max_parallel, AT_ONCE))
    if to:
        release = to if ":" in to else f"{_name(rows)}:{to}"
        asked = Asked(
            release, ask=not yes, dry_run=False, delta=True, output=output, selector=selector, file=fleet
        )
        outcome = roll_out(whole, picked, asked)
        raise typer.Exit(outcome.exit_code if outcome is not None else 0)
    if not yes:
        shown = [(row["device"], row.get("release"), goes_back_to(row), row["health"]) for row in rows]
        table(("device", "serves", "goes back to", "health"), shown)
        ask_first(f"Take {sum(map(can, rows))} of {len(rows)} devices back?")
    ends = take_back(whole, dict(zip(picked, rows, strict=True)))
    if output is Form.JSON:
        emit(ends)
    else:
        table(("device", "outcome", "serves", "message"), [list(end.values())[:4] for end in ends])
        for remedy in dict.fromkeys(filter(None, (end["next"] for end in ends))):
            say(f"next  {remedy}")
    raise typer.Exit(_exit_code({end["outcome"] for end in ends}))


def _name(rows: list[dict[str, Any]]) -> str:
    """Return the name of the release this fleet runs, whatever the versions."""
    names = {str(row["release"]).partition(":")[0] for row in rows if row.get("release")}
    if len(names) != 1:
        raise UsageError(
            f"--to needs one release name, these devices run {', '.join(sorted(names)) or 'none'}",
            remedy="Use `slmops deploy FLEET.yaml --release NAME:VERSION`, or narrow it with -l.",
        )
    return names.pop()


def _exit_code(outcomes: set[str]) -> int:
    if "locked" in outcomes:
        return LockedError.exit_code
    if "unreachable" in outcomes:
        return UnreachableError.exit_code
    if outcomes <= {"ok", "stays"}:
        return 0
    return PartialError.exit_code if "ok" in outcomes else SlmopsError.exit_code

"""slmops rollout: what happened in past and present rollouts, and how to go on with one."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from slmops.cli.catch_up import catch_up
from slmops.cli.options import verb
from slmops.cli.render import Form, Output, ago, emit, say, size, table
from slmops.cli.rollout_choice import opened
from slmops.cli.rollout_report import report
from slmops.cli.rollout_show import show
from slmops.cli.rollout_steer import abort, pause, promote, resume
from slmops.cli.rollout_watch import GOING, watch, way_on
from slmops.cli.take_back import left
from slmops.rollout import progress
from slmops.rollout.assignment import State
from slmops.rollout.history import Entry, Line
from slmops.rollout.tally import Sort, tally

app = verb(
    "Rollouts: list, show, watch, pause, resume, promote, abort, report, catch-up.",
    group=True,
)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 20, output: Output = Form.TABLE
) -> None:
    """List the latest rollouts, newest first."""
    with opened() as history:
        found = [(entry, history.devices(entry.id)) for entry in history.rollouts(limit)]
        driven = {entry.id: history.driver(entry.id) is not None for entry, _ in found}
    if output is Form.JSON:
        emit([
            {**asdict(entry), "driven": driven[entry.id], "counts": _counts(entry, lines)}
            for entry, lines in found
        ])  # fmt: skip
        return
    now = time.time()
    heads = (
        "number",
        "fleet",
        "release",
        "state",
        "wave",
        "good",
        "bad",
        "left",
        "sent",
        "took",
        "ago",
        "who",
    )
    table(heads, [_row(entry, lines, now, driven=driven[entry.id]) for entry, lines in found])
    for entry, _ in found:
        if entry.state in GOING and not driven[entry.id]:
            say(f"Nobody drives rollout {entry.id}: {way_on(entry)}")


def _row(entry: Entry, lines: list[Line], now: float, *, driven: bool) -> tuple[object, ...]:
    counts = _counts(entry, lines)
    going = entry.state in GOING
    sent = progress.sent(lines)
    return (
        entry.id, entry.fleet, entry.release, "undriven" if going and not driven else entry.state,
        f"{min(entry.wave + 1, entry.waves)}/{entry.waves}",
        f"{counts['good']}/{counts['devices']}", counts["bad"] or None, counts["left"] or None,
        size(sent) if sent else None,
        ago((now if going and driven else entry.changed) - entry.started), ago(now - entry.started),
        entry.operator,
    )  # fmt: skip


def _counts(entry: Entry, lines: list[Line]) -> dict[str, int]:
    """Return how many devices ended well, ended badly, or not yet; in a rollback who is back is well."""
    sorts = tally(line.state for line in lines)
    back = sum(line.state == State.RETURNED.value for line in lines) if left(entry) is not None else 0
    return {
        "devices": len(lines),
        "good": sorts[Sort.GOOD] + back,
        "bad": sorts[Sort.BAD],
        "unknown": sorts[Sort.UNKNOWN],
        "left_out": sorts[Sort.OUT] - back,
        "left": sorts[Sort.BUSY] + sorts[Sort.LEFT],
    }


app.command()(show)
app.command()(watch)
app.command()(pause)
app.command()(resume)
app.command()(promote)
app.command()(abort)
app.command()(report)
app.command("catch-up")(catch_up)

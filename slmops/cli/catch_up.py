"""slmops rollout catch-up: devices that were away come to the newest release their fleet has proved.

Who is to come to what, `rollout/target` says; the way there is that of every rollout. Laws: a device that is
away still, or stays for a reason, is left as it is; each release is brought to all who lag by one rollout.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from slmops.cli import home
from slmops.cli.auditing import note, recorded
from slmops.cli.driving import Asked, roll_out
from slmops.cli.options import FleetFile, Selector, Yes, ask_first
from slmops.cli.render import Form, Output, emit, err, out, say, table
from slmops.cli.status import ask_all
from slmops.cli.take_back import left
from slmops.errors import SlmopsError, UsageError
from slmops.fleet.ask_all import AT_ONCE
from slmops.fleet.duration import seconds
from slmops.fleet.inventory import Device, Fleet
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.rollout import target
from slmops.rollout.assignment import State
from slmops.rollout.history import History
from slmops.rollout.machine import EXIT_CODES
from slmops.rollout.machine import State as Rollout
from slmops.rollout.target import Past, Target
from slmops.rollout.timeline import elapsed

COMES, AWAY, HAS, STAYS = "comes", "away", "has it", "stays"
INTERRUPTED = EXIT_CODES[Rollout.INTERRUPTED]
Row = dict[str, Any]


def catch_up(
    fleet: FleetFile,
    selector: Selector = "",
    watch: Annotated[
        str, typer.Option(metavar="SPAN", help="Look again every so often, until Ctrl-C: 10m, 1h.")
    ] = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who lags; touch nothing.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Bring devices that were away to the newest release that a rollout over them has proved.

    What lies between is skipped. A device that `slmops rollback` took back stays, and so does one that the
    release has failed on; who was away when its fleet was taken back comes to what the others have. Devices
    out of reach are left for the next time, and so are those of a rollout that is not over.

    Exit codes: 0 nobody in reach lags any more, else as of a deploy.
    """
    if not watch:
        ended = _look(fleet, selector, everybody=True)
        _show(ended, dry_run=dry_run, output=output)
        if not dry_run and ended.lagging:
            if not yes:
                count = len(ended.lagging)
                ask_first(f"Bring {count} device{'' if count == 1 else 's'} up to date?")
            _bring(ended, fleet, selector)
        if output is Form.JSON:
            emit({"fleet": ended.fleet.name, "devices": ended.rows, "exit_code": ended.exit_code})
        raise typer.Exit(ended.exit_code)
    if not yes or dry_run:
        raise UsageError("--watch asks nobody", remedy="Add --yes, and leave --dry-run out.")
    _watch(fleet, selector, _span(watch), output)


@dataclass
class _Round:
    """A look at a fleet, and what came of it."""

    file: Path
    fleet: Fleet
    rows: list[Row]
    lagging: list[Device]
    exit_code: int = 0


def _look(file: Path, selector: str, *, everybody: bool = False) -> _Round:
    """See who is to come to what, and where those stand, or `everybody`."""
    fleet, devices = load_fleet(file)
    picked = select(devices, selector)
    with closing(History(home.history())) as history:
        aims = target.targets([device.name for device in picked], _pasts(history, fleet.name))
    going = [device for device in picked if everybody or aims[device.name].release is not None]
    asked = ask_all(going, max(fleet.rollout.max_parallel, AT_ONCE)) if going else []
    stands = {row["device"]: row for row in asked}
    rows = [_row(device.name, aims[device.name], stands.get(device.name, {})) for device in picked]
    lagging = [device for device, row in zip(picked, rows, strict=True) if row["does"] == COMES]
    return _Round(file, fleet, rows, lagging)


def _pasts(history: History, fleet: str) -> Iterator[Past]:
    """Return the rollouts over a fleet, newest first, each read when it is asked for."""
    for entry in history.rollouts(limit=-1):
        if entry.fleet == fleet:
            state = Rollout(entry.state)
            lines = {line.device: State(line.state) for line in history.devices(entry.id)}
            # A rollback that could move nobody counts for nothing.
            leaves = None if state is Rollout.REFUSED else left(entry)
            stages_only = bool(entry.options.get("how", {}).get("stage_only"))
            yield Past(entry.id, entry.release, state, lines, leaves, stages_only)


def _row(device: str, aim: Target, stands: Row) -> Row:
    """Return what is to become of a device, by what it said to `status`."""
    row = {
        "device": device, "serves": stands.get("release"), "target": aim.release, "rollout": aim.number,
        "does": STAYS, "why": aim.why,
    }  # fmt: skip
    if aim.release is None:
        return row
    if stands["health"] in ("unreachable", "unknown"):
        return {**row, "does": AWAY, "why": stands.get("remark") or stands["health"]}
    there = stands.get("release") == aim.release and stands["health"] != "on trial"
    return {**row, "does": HAS if there else COMES}


def _bring(round_: _Round, file: Path, selector: str) -> None:
    """Bring those who lag where they are to come, a rollout for each release; rows say how they ended."""
    rows = {row["device"]: row for row in round_.rows}
    for release in dict.fromkeys(rows[device.name]["target"] for device in round_.lagging):
        group = [device for device in round_.lagging if rows[device.name]["target"] == release]
        with recorded("rollout catch-up", release=release, devices=[device.name for device in group]):
            asked = Asked(
                release, ask=False, dry_run=False, delta=True, output=Form.TABLE, selector=selector, file=file
            )
            outcome = roll_out(round_.fleet, group, asked)
            if outcome is not None:
                note(exit_code=outcome.exit_code)
        if outcome is None:
            continue
        round_.exit_code = outcome.exit_code or round_.exit_code
        for device in group:
            state = outcome.states.get(device.name)
            rows[device.name] |= {
                "does": state.value if state else outcome.rollout.state.value,
                "why": outcome.messages.get(device.name, ""),
                "rollout": outcome.number,
            }
        if outcome.exit_code == INTERRUPTED:
            return


def _watch(file: Path, selector: str, every: float, output: Output) -> None:
    """Look and bring, again and again, and print a line for what is new; whatever fails is tried again."""
    said: dict[str, Row] = {}
    say(f"Watching {file}: a look every {elapsed(every)}; lines tell what is new. Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        while True:
            try:
                round_ = _look(file, selector)
                _bring(round_, file, selector)
                rows, stopped = round_.rows, round_.exit_code == INTERRUPTED
            except SlmopsError as error:
                rows, stopped = [{"device": "", "does": error.code, "why": str(error)}], False
            for row in rows:
                if said.get(row["device"]) != row and row["does"] not in (STAYS, HAS):
                    _print_line(row, output)
            said = {row["device"]: row for row in rows}
            if stopped:
                return
            time.sleep(every)


def _print_line(row: Row, output: Output) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    if output is Form.JSON:
        sys.stdout.write(json.dumps({"at": at, **row}) + "\n")
        sys.stdout.flush()
        return
    goes = f" {row['target']}" if row.get("target") else ""
    out.print(f"{at} {row['device']} {row['does']}{goes} {row['why']}".strip(), markup=False, soft_wrap=True)


def _show(round_: _Round, *, dry_run: bool, output: Output) -> None:
    if output is Form.JSON:
        return
    rows = [list(row.values()) for row in round_.rows if row["does"] != HAS]
    if rows:
        columns = ("device", "serves", "comes to", "by rollout", "does", "because")
        table(columns, rows, on=out if dry_run else err)
    if not round_.lagging:
        say("Nobody in reach lags.")


def _span(said: str) -> float:
    try:
        span = seconds(said)
    except ValueError as error:
        raise UsageError(f"--watch: {error}, got {said!r}") from error
    if not isinstance(span, float) or span < 1:
        raise UsageError(f"--watch: expected a span of a second or more, such as 10m; got {said!r}")
    return span

"""slmops lock: who has a fleet, and its devices, now; and how to take them away from somebody who is gone."""

import time
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from slmops.cli import auditing, home
from slmops.cli.auditing import audited
from slmops.cli.device_care import ask_each
from slmops.cli.options import FleetFile, Selector, Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, out, say, table
from slmops.errors import SlmopsError, UnreachableError, UsageError
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.rollout.history import Driver, History

app = verb("Who has a device or a fleet now: status, break.", group=True)
COLUMNS = ("device", "held by", "rollout", "since", "until", "update lock")
LONGEST = 200
"""Letters of a reason that a device keeps."""
SHOWN = 8
"""Letters of a rollout's name that people are shown, as devices say it."""


@app.command()
def status(fleet: FleetFile, selector: Selector = "", output: Output = Form.TABLE) -> None:
    """Show who drives a rollout over a fleet from here, and whose rollout each device is held by.

    An application that must not be disturbed shows as the device's update lock. Exit codes: 0 all devices
    answered, 6 some were not reached, 1 some could not say.
    """
    whole, devices = load_fleet(fleet)
    rows = ask_each(select(devices, selector), "lease", {"action": "status"})
    driver = _driver(whole.name)
    if output is Form.JSON:
        emit({"fleet": whole.name, "driver": asdict(driver) if driver else None, "devices": rows})
    else:
        if driver is not None:
            out.print(
                f"{whole.name}: rollout {driver.rollout} is driven by {driver.holder}, process {driver.pid}, "
                f"since {_moment(driver.since)}",
                markup=False,
            )
        table(COLUMNS, map(_shown, rows))
    _exit(rows)


@app.command("break")
@audited("lock break")
def break_(
    fleet: FleetFile,
    reason: Annotated[str, typer.Option(help="Why: whoever loses it is told, and it is written down.")],
    selector: Selector = "",
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Take devices away from the rollout that holds them; what it still says is not heard there.

    Without --selector the whole fleet is meant, and who drives a rollout over it from here loses it as well.
    What a device serves stays as it is; a trial that nobody confirms goes back by itself. The same rollout
    may come back with `slmops rollout resume`. Exit codes: 0 done, 6 some were not reached, 1 some refused.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > LONGEST:
        raise UsageError(f"--reason: expected one line of at most {LONGEST} letters, got {reason[:60]!r}")
    whole, devices = load_fleet(fleet)
    rows = ask_each(select(devices, selector), "lease", {"action": "status"})
    held = [row["device"] for row in rows if row.get("lease")]
    driver = None if selector else _driver(whole.name)
    if not held and driver is None:
        say("Nobody holds any of these devices.")
        return _exit(rows)
    if not yes:
        table(COLUMNS, map(_shown, rows))
        also = f", and {whole.name} from {driver.holder}" if driver else ""
        ask_first(f"Take {len(held)} of {len(rows)} devices away from who holds them{also}?")
    if driver is not None:
        with closing(History(home.history())) as history:
            history.take_away(whole.name)
    said = {"action": "break", "reason": reason, "holder": auditing.who(), "epoch": home.epoch()}
    taken = ask_each([device for device in devices if device.name in held], "lease", said)
    auditing.note(fleet=whole.name, reason=reason, driver=driver and driver.holder, devices=held)
    if output is Form.JSON:
        emit({"fleet": whole.name, "driver": asdict(driver) if driver else None, "devices": taken})
    else:
        table(("device", "was held by", "rollout", "now"), map(_taken, taken))
    return _exit([*taken, *(row for row in rows if "error" in row)])


def _driver(fleet: str) -> Driver | None:
    with closing(History(home.history())) as history:
        return history.driver_of(fleet)


def _shown(row: dict[str, Any]) -> list[Any]:
    lease, lock = row.get("lease"), row.get("update_lock")
    locked = f"held: {lock['why'] or 'it does not say why'}" if lock else None
    if lease is None:
        return [row["device"], row.get("error"), None, None, None, locked]
    times = _moment(lease["since"]), _moment(lease["until"])
    return [row["device"], lease["holder"], lease["rollout"][:SHOWN], *times, locked]


def _taken(row: dict[str, Any]) -> list[Any]:
    lost = row.get("broken") or {}
    rollout = lost.get("rollout", "")[:SHOWN]
    return [row["device"], lost.get("holder"), rollout, row.get("error") or "free"]


def _moment(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def _exit(rows: list[dict[str, Any]]) -> None:
    """Leave with the exit code of what devices did not say."""
    codes = {row["code"] for row in rows if "error" in row}
    if UnreachableError.code in codes:
        raise typer.Exit(UnreachableError.exit_code)
    if codes:
        raise typer.Exit(SlmopsError.exit_code)

"""slmops lock: who has a fleet, and its devices, now; and how to take them away from somebody who is gone."""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from slmops.cli import auditing, home
from slmops.cli.auditing import audited
from slmops.cli.device_care import ask_each
from slmops.cli.options import FleetFile, Selector, Yes, ask_first, verb
from slmops.cli.render import Form, Output, emit, err, out, say, table
from slmops.errors import SlmopsError, UnreachableError, UsageError
from slmops.fleet.agent import NoAgentError
from slmops.fleet.inventory import Device
from slmops.fleet.load import load_fleet
from slmops.fleet.selector import select
from slmops.rollout.history import Driver, History

app = verb("Who has a device or a fleet now: status, break.", group=True)
COLUMNS = ("device", "held by", "rollout", "since", "until", "remark")
LONGEST = 200
"""Letters of a reason that a device keeps."""
SHOWN = 8
"""Letters that people are shown of what devices call a rollout that this home does not know."""


@app.command()
def status(fleet: FleetFile, selector: Selector = "", output: Output = Form.TABLE) -> None:
    """Show who drives a rollout over a fleet from here, and whose rollout each device is held by.

    An application that must not be disturbed shows as the device's update lock. Exit codes: 0 all devices
    answered, 6 some were not reached, 1 some could not say.
    """
    whole, devices = load_fleet(fleet)
    rows = _stand(select(devices, selector))
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
        _show(rows)
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
    rows = _stand(select(devices, selector))
    held = [row["device"] for row in rows if row.get("lease")]
    driver = None if selector else _driver(whole.name)
    if not held and driver is None:
        silent = [row for row in rows if "error" in row]
        if output is Form.JSON:
            emit({"fleet": whole.name, "driver": None, "devices": silent})
        elif silent:
            _show(silent, err)
        say(
            "Nobody holds any of the devices that answered."
            if silent
            else "Nobody holds any of these devices."
        )
        return _exit(rows)
    if not yes:
        _show(rows, err)
        also = f", and {whole.name} from {driver.holder}" if driver else ""
        ask_first(f"Take {len(held)} of {len(rows)} devices away from who holds them{also}?")
    if driver is not None:
        with closing(History(home.history())) as history:
            history.take_away(whole.name)
    said = {"action": "break", "reason": reason, "holder": auditing.who(), "epoch": int(time.time())}
    taken = ask_each([device for device in devices if device.name in held], "lease", said)
    auditing.note(fleet=whole.name, reason=reason, driver=driver and driver.holder, devices=held)
    if output is Form.JSON:
        emit({"fleet": whole.name, "driver": asdict(driver) if driver else None, "devices": taken})
    else:
        numbers = _numbers()
        table(("device", "was held by", "rollout", "now"), [_taken(row, numbers) for row in taken])
    return _exit([*taken, *(row for row in rows if "error" in row)])


def _stand(devices: list[Device]) -> list[dict[str, Any]]:
    """Ask devices who holds them; nobody holds one on which nothing of slmops is."""
    rows = ask_each(devices, "lease", {"action": "status"})
    bare = {"lease": None, "update_lock": None, "remark": "nothing of slmops is here"}
    return [
        {"device": row["device"], **bare} if row.get("code") == NoAgentError.code else row for row in rows
    ]


def _numbers() -> dict[str, int]:
    """Return the numbers that `slmops rollout list` has for rollouts, by what devices know them by."""
    with closing(History(home.history())) as history:
        return {entry.uid: entry.id for entry in history.rollouts(limit=-1) if entry.uid}


def _show(rows: list[dict[str, Any]], on: Console = out) -> None:
    numbers = _numbers()
    table(COLUMNS, [_shown(row, numbers) for row in rows], on)


def _driver(fleet: str) -> Driver | None:
    with closing(History(home.history())) as history:
        return history.driver_of(fleet)


def _shown(row: dict[str, Any], numbers: Mapping[str, int]) -> list[Any]:
    lease, lock = row.get("lease"), row.get("update_lock")
    locked = f"update lock: {lock['why'] or 'it does not say why'}" if lock else None
    if lease is None:
        return [row["device"], None, None, None, None, locked or row.get("error") or row.get("remark")]
    times = _moment(lease["since"]), _moment(lease["until"])
    return [row["device"], lease["holder"], _rollout(lease["rollout"], numbers), *times, locked]


def _taken(row: dict[str, Any], numbers: Mapping[str, int]) -> list[Any]:
    lost = row.get("broken") or {}
    rollout = _rollout(lost.get("rollout", ""), numbers)
    return [row["device"], lost.get("holder"), rollout, row.get("error") or "free"]


def _rollout(uid: str, numbers: Mapping[str, int]) -> str:
    """Return a rollout's number, or of one that began elsewhere what devices know it by."""
    return str(numbers[uid]) if uid in numbers else uid[:SHOWN]


def _moment(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))


def _exit(rows: list[dict[str, Any]]) -> None:
    """Leave with the exit code of what devices did not say."""
    codes = {row["code"] for row in rows if "error" in row}
    if UnreachableError.code in codes:
        raise typer.Exit(UnreachableError.exit_code)
    if codes:
        raise typer.Exit(SlmopsError.exit_code)

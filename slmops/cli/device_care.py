"""slmops device fsck, gc and forgive: is what lies on devices as it was left, what may go, what may come."""

from typing import Annotated, Any

import typer

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.cli import home
from slmops.cli.auditing import audited
from slmops.cli.device_choice import FleetOption, Host, targets
from slmops.cli.options import Selector, Yes, ask_first
from slmops.cli.render import Form, Output, counter, emit, err, say, size, table
from slmops.errors import IntegrityError, PartialError, SlmopsError
from slmops.fleet import agent
from slmops.fleet.ask_all import ask_all
from slmops.fleet.inventory import Device
from slmops.fleet.ssh import Link
from slmops.registry import release as releases
from slmops.registry.channels import resolve
from slmops.registry.layout import Layout

PARALLEL = 16
READING = 3600.0
"""Seconds that a device may read one slot before it says anything again."""


@audited("device fsck", when="repair")
def fsck(
    host: Host = "",
    fleet: FleetOption = None,
    selector: Selector = "",
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Look whether everything on a device is as it was left: every byte of every release, links, journal.

    With --fleet and no DEVICE: every device, or those that --selector picks. --repair removes what has
    rotted and does not serve, goes back from a rotten release to a whole one, and puts the rest in order.

    Exit codes: 0 all is well or was mended, 7 something is wrong, 4 some devices could not be asked.
    """
    devices = targets(host, fleet, selector)
    rows = ask_each(devices, "fsck", {"repair": repair})
    if output is Form.JSON:
        emit({"devices": rows})
    else:
        table(
            ("device", "state", "where", "wrong", "then"), [line for row in rows for line in _findings(row)]
        )
    _exit(rows, any(row.get("clean") is False for row in rows))


@audited("device gc")
def gc(
    host: Host = "",
    fleet: FleetOption = None,
    selector: Selector = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Free what a device does not need: releases it does not return to, and what others left half done.

    What serves, what the device may return to, and what is on its way never go.
    """
    rows = ask_each(targets(host, fleet, selector), "gc", {"dry_run": dry_run})
    if output is Form.JSON:
        emit({"devices": rows})
    else:
        shown = [(row["device"], each["what"], each["path"]) for row in rows for each in row.get("gone", [])]
        if shown:
            table(("device", "would go" if dry_run else "gone", "path"), shown)
        total = [
            (row["device"], size(row["bytes"]), size(row["free"])) if "bytes" in row
            else (row["device"], None, row["error"])
            for row in rows
        ]  # fmt: skip
        table(("device", "would give" if dry_run else "gave", "free"), total)
    _exit(rows, wrong=False)


@audited("device forgive")
def forgive(
    host: Host = "",
    fleet: FleetOption = None,
    selector: Selector = "",
    release: Annotated[
        str, typer.Option("--release", metavar="NAME:VERSION", help="Only this one; without it, all.")
    ] = "",
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Let devices try again what failed on them too often, before its quarantine is over.

    With --fleet and no DEVICE: every device, or those that --selector picks. What serves stays as it is.
    Exit codes: 0 done, 4 some devices could not be asked.
    """
    devices = targets(host, fleet, selector)
    slots = _slots(release) if release else [None]
    if not yes and not host and not selector:
        what = release or "all that is in quarantine"
        ask_first(f"Let every device of {fleet} ({len(devices)}) try {what} again?")
    rows = [row for slot in slots for row in ask_each(devices, "forgive", {"slot": slot})]
    if output is Form.JSON:
        emit({"devices": rows})
    else:
        forgiven = [(row["device"], slot) for row in rows for slot in row.get("forgiven", [])]
        known = _references() if forgiven else {}
        shown = [(device, digests.short(f"sha256:{slot}"), known.get(slot)) for device, slot in forgiven]
        wrong = dict.fromkeys((row["device"], row["error"]) for row in rows if "error" in row)
        if shown:
            table(("device", "may be tried again", "of release"), shown)
        if wrong:
            table(("device", "error"), list(wrong), err)
        if not shown and not wrong:
            say("Nothing was in quarantine.")
    _exit(rows, wrong=False)


def _slots(release: str) -> list[str | None]:
    """Return the slots that a release's artifacts have on devices."""
    layout = Layout(home.registry())
    signed = releases.find(layout, resolve(layout, release))
    return [digests.hexdigits(entry.blob.digest) for _, entry in signed.release.artifacts]


def _references() -> dict[str, str]:
    """Return the releases of the registry by the slots that their artifacts have on devices."""
    layout = Layout(home.registry())
    names = layout.names()
    found: dict[str, str] = {}
    for reference in map(str, releases.references(layout)):
        for _, entry in manifest.parse_release(layout.get(names[reference])).artifacts:
            found.setdefault(digests.hexdigits(entry.blob.digest), reference)
    return found


def ask_each(devices: list[Device], verb: str, said: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask every device, some at a time; one row each, in order."""
    with counter("asking devices") as bar:
        task = bar.add_task("", total=len(devices))
        return ask_all(
            devices, lambda device: _ask(device, verb, said), PARALLEL, lambda row: bar.advance(task)
        )


def _ask(device: Device, verb: str, said: dict[str, Any]) -> dict[str, Any]:
    try:
        with Link(device, home.known_hosts()) as link:
            return {"device": device.name, **agent.call(link, verb, said, silence=READING)}
    except SlmopsError as error:
        return {"device": device.name, "error": str(error), "code": error.code}


def _findings(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    if "error" in row:
        return [(row["device"], "unknown", None, row["error"], None)]
    if not row["findings"]:
        slots = f"{row['slots']} slot{'' if row['slots'] == 1 else 's'}"
        return [(row["device"], "ok", None, f"nothing: {slots}, {size(row['bytes'])} read", None)]
    return [
        (row["device"], "mended" if each["mended"] else "wrong", each["where"], each["wrong"], each["advice"])
        for each in row["findings"]
    ]


def _exit(rows: list[dict[str, Any]], wrong: bool) -> None:
    """Leave with the exit code of what was found."""
    if wrong:
        raise typer.Exit(IntegrityError.exit_code)
    if any("error" in row for row in rows):
        raise typer.Exit(PartialError.exit_code)

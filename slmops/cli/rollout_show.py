"""slmops rollout show: one rollout, its waves and devices, what was measured, and what failed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from slmops import digest as digests
from slmops.cli.render import Form, Output, emit, out, size, table
from slmops.cli.rollout_choice import Number, find, opened
from slmops.cli.rollout_view import bar, counted, happened
from slmops.cli.rollout_watch import GOING, way_on
from slmops.rollout.assignment import State
from slmops.rollout.found import UNKNOWN, Figure, attested, gate_table, objects, wanting, words
from slmops.rollout.history import Line
from slmops.rollout.report import report
from slmops.rollout.tally import Sort
from slmops.rollout.timeline import elapsed
from slmops.rollout.told import remedies

LAST = 8
"""Lines of a device's log that are shown."""


def show(
    number: Number = None,
    events: Annotated[bool, typer.Option("--events", help="Show all that happened, in order.")] = False,
    output: Output = Form.TABLE,
) -> None:
    """Show a rollout: its waves, each device, what its gate measured, and what failed.

    With --events, all that happened in time as well.
    """
    with opened() as history:
        entry = find(history, number)
        lines, happenings = history.devices(entry.id), history.events(entry.id)
        driver = history.driver(entry.id)
    if output is Form.JSON:
        said = {**asdict(entry), "driver": driver and asdict(driver), "devices": [asdict(x) for x in lines]}
        emit(said | ({"events": [asdict(each) for each in happenings]} if events else {}))
        return
    said = report(entry, lines, happenings, made=max([entry.changed, *(each.at for each in happenings)]))
    _head(said["rollout"], lines)
    if driver is not None:
        out.print(f"driven by {driver.holder}, process {driver.pid}", markup=False)
    elif entry.state in GOING:
        out.print(f"nobody drives it: {way_on(entry)}", markup=False)
    _waves(said["waves"], lines)
    _devices(said["devices"])
    _gate(said["devices"])
    for text in _evidence(lines):
        out.print(text, markup=False, soft_wrap=True)
    for remedy in remedies(line.evidence for line in lines):
        out.print(f"next  {remedy}", markup=False, soft_wrap=True)
    if events:
        out.print()
        for each in happenings:
            out.print(happened(each), soft_wrap=True)


def _head(said: dict[str, Any], lines: Sequence[Line]) -> None:
    by = f", by {said['operator']}" if said["operator"] else ""
    took = elapsed(round(said["seconds"]))
    out.print(
        f"rollout {said['number']}: {said['release']} to {said['fleet']}, {said['state']}, {took}{by}",
        markup=False,
    )
    out.print(counted(lines), style="dim", markup=False)


def _waves(waves: Sequence[dict[str, Any]], lines: Sequence[Line]) -> None:
    out.print()
    for wave in waves:
        states = [line.state for line in lines if line.wave == wave["wave"]]
        name = f"wave {wave['wave']}  {wave['name']}"
        verdict = wave["verdict"] or ("under way" if wave["began"] is not None else "not begun")
        style = {"pass": "green", "fail": "red", "inconclusive": "yellow"}.get(verdict, "dim")
        drawn = bar(states if verdict != "not begun" else [State.WAITING.value] * len(states))
        counts = [f"{wave['counts'][sort.value]} {sort.value}" for sort in Sort if wave["counts"][sort.value]]
        out.print(
            Text.assemble(f"{name:<22}", drawn, "  ", (f"{verdict:<12}", style), "  ", ", ".join(counts))
        )


def _devices(devices: Sequence[dict[str, Any]]) -> None:
    out.print()
    rows = [
        (
            device["device"], device["wave"] or None, device["state"],
            None if device["seconds"] is None else elapsed(device["seconds"]),
            size(device["sent"]) if device.get("sent") is not None else None,
            _attested(device.get("attested")),
            device["message"],
        )
        for device in devices
    ]  # fmt: skip
    table(("device", "wave", "state", "took", "sent", "attested", "message"), rows)


def _gate(devices: Sequence[dict[str, Any]]) -> None:
    """Print what the gate measured, where it did."""
    gate = gate_table(devices)
    if gate.rows:
        out.print()
        found = {device["device"]: wanting(device) for device in devices}
        rows = [["bound", *(bound for _, bound in gate.heads), ""]]
        rows += [[name, *map(_figure, figures), found[name]] for name, _, figures in gate.rows]
        heads = ["gate", *(what for what, _ in gate.heads), "failed"]
        shown = len(heads) - (not any(found.values()))
        table(heads[:shown], [row[:shown] for row in rows])


def _attested(said: Any) -> str | None:
    """Return the digest that a device attested, in short; None of a device that was not asked."""
    found = attested(said)
    return digests.short(found) if found else "nothing" if said else None


def _figure(figure: Figure) -> str:
    if figure.text == UNKNOWN:
        return ""
    outcome = figure.outcome if figure.outcome in ("fail", "inconclusive") else ""
    return " ".join(filter(None, [figure.text, figure.bound and f"({figure.bound})", outcome]))


def _evidence(lines: Sequence[Line]) -> Iterator[str]:
    """Yield what devices had to say: why files went whole, what they answered, how the daemon ended."""
    for line in lines:
        said = line.evidence
        yield from (f"{line.device}: {why}" for why in said.get("whole_because") or [])
        for failed in objects(said.get("failed")):
            yield f"\n{line.device} was asked  {words(failed.get('question'))}"
            yield f"  expected  {words(failed.get('expected'))}"
            yield f"  answered  {words(failed.get('answer'))}"
        yield from (f"{line.device} log  {text}" for text in (said.get("log") or [])[-LAST:])

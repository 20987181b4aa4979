"""A plan for people, wave by wave, and for machines as the JSON in which it is kept."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console

from slmops.cli.render import Form, ago, emit, err, opens, size, table
from slmops.rollout.plan import Does, Known, Plan, PlannedDevice, PlannedWave, Room, render

COLUMNS = ("device", "profile", "serves", "gets", "sends", "deltas", "RAM left", "disk left", "time")
MANY = 40
"""Devices of a wave beyond which those that are alike share a line."""
NAMED = 6
"""Devices that a line names before it counts the rest."""


def show_plan(plan: Plan, output: Form, on: Console = err) -> None:
    """Show a plan: as JSON on standard output, else as a table for each wave."""
    if output is Form.JSON:
        emit(json.loads(render(plan)))
        return
    _line(on, f"Plan: {plan.release} ({_short(plan.digest)}) to {plan.fleet}: {_whole(plan)}")
    for bundle in _bundles(plan):
        _line(on, bundle)
    tables = [_rows([each for each in plan.devices if each.wave == wave.number], plan) for wave in plan.waves]
    filled = [place for place in range(len(COLUMNS)) if any(row[place] for rows in tables for row in rows)]
    for wave, rows in zip(plan.waves, tables, strict=True):
        _line(on, f"\n{_wave(wave, plan)}")
        table([COLUMNS[place] for place in filled], [[row[place] for place in filled] for row in rows], on=on)
    _run_otherwise(plan, on)
    if already := plan.those(Does.ALREADY):
        _line(on, f"\nhave it already ({len(already)}): {_names(already)}")
    _left_out(plan, on)


def _run_otherwise(plan: Plan, on: Console) -> None:
    """Show whose daemons are only to be run another way, and how."""
    alike = defaultdict(list)
    for each in plan.those(Does.DEPLOY):
        if each.reason:
            alike[each.reason].append(each)
    for changes, devices in alike.items():
        _line(on, f"\nsame release, other settings ({len(devices)}): {_names(devices)}: {changes}")


def refused(plan: Plan) -> str:
    """Say that a deploy would be refused, and for whom."""
    if cannot := plan.those(Does.REFUSED, Does.LOCKED):
        return f"A deploy would touch nobody: {_names(cannot)} cannot take {plan.release}."
    words = [plan.selector.strip(), *(f"!{each.device}" for each in plan.those(Does.UNREACHABLE))]
    return (
        "A deploy would touch nobody: more are out of reach than max_unreachable allows. "
        f"Leave them out: -l '{','.join(filter(None, words))}'"
    )


def _left_out(plan: Plan, on: Console) -> None:
    """Show every device that would not get the release, why, and each remedy once."""
    others = plan.those(Does.REFUSED, Does.UNREACHABLE, Does.LOCKED, Does.QUARANTINED)
    if not others:
        return
    _line(on, "")
    rows = [(each.device, each.profile, each.does.value, each.reason) for each in others]
    table(("device", "profile", "does", "reason"), rows, on=on)
    for remedy in dict.fromkeys(each.remedy for each in others if each.remedy):
        _line(on, f"next  {remedy}")


def _rows(devices: Sequence[PlannedDevice], plan: Plan) -> list[Sequence[Any]]:
    """Return a line for each device; where they are many, one for all that are alike."""
    if len(devices) <= MANY:
        return [_row([each], plan) for each in devices]
    alike = defaultdict(list)
    for each in devices:
        alike[each.profile, each.serves, each.type, each.files, each.deltas, each.known].append(each)
    return [_row(kind, plan) for kind in alike.values()]


def _row(alike: Sequence[PlannedDevice], plan: Plan) -> Sequence[Any]:
    """Return the line of devices that are alike: what all are sent, and what the tightest has left."""
    first, more = alike[0], len(alike) - 1
    longest = max((each.seconds for each in alike if each.seconds is not None), default=None)
    return (
        first.device + (f" and {more} more" if more else ""),
        first.profile,
        _serves(first, plan),
        first.type,
        size(sum(each.sends for each in alike)),
        f"{first.deltas} of {first.files}" if first.deltas else None,
        _left([each.memory for each in alike]),
        _left([each.disk for each in alike]),
        None if longest is None else _span(longest, first.known),
    )


def _serves(device: PlannedDevice, plan: Plan) -> str | None:
    """Return what a device serves; of the release's own name the version alone."""
    name = plan.release.partition(":")[0]
    return device.serves and device.serves.removeprefix(f"{name}:")


def _left(rooms: Sequence[Room | None]) -> str | None:
    least = min((room.head_room for room in rooms if room is not None), default=None)
    return None if least is None else size(least)


def _whole(plan: Plan) -> str:
    goes = plan.those(Does.DEPLOY)
    if not goes:
        return "nobody would get it"
    waves = f"{len(plan.waves)} wave" + ("s" if len(plan.waves) > 1 else "")
    hours = f", each in its hours{_first(plan)}" if plan.windows else ""
    time = _time(plan.seconds, plan.known)
    return f"{_counted(len(goes))} in {waves}{hours}, {size(plan.sends)} to send, {time}"


def _first(plan: Plan) -> str:
    """Say when the first window opens, where all of the first wave are closed."""
    if plan.opens is None:
        return ""
    at, made = (datetime.fromisoformat(said).timestamp() for said in (plan.opens, plan.made))
    return f" (the first from {opens(at, made)})"


def _wave(wave: PlannedWave, plan: Plan) -> str:
    soak = f", then {ago(wave.soak)} of soak" if wave.soak else ""
    held = wave.advance == "manual" and wave.number < len(plan.waves)
    waits = "; it waits for `slmops rollout promote`" if held else ""
    comes_to = f"{_counted(wave.devices)}, {size(wave.sends)}, {_time(wave.seconds, wave.known)}"
    return f"wave {wave.number} of {len(plan.waves)}, {wave.name}: {comes_to}{soak}{waits}"


def _bundles(plan: Plan) -> list[str]:
    """Say which runtime bundles daemons would run from, if any."""
    runs = defaultdict(list)
    for each in plan.those(Does.DEPLOY):
        if each.runtime:
            runs[each.runtime].append(each)
    return [f"runtime bundle {name}: {_counted(len(devices))}" for name, devices in runs.items()]


def _time(seconds: float | None, known: Known) -> str:
    if seconds is None:
        return "time not known"
    return f"{'about' if known is Known.WHOLE else 'over'} {ago(max(seconds, 1.0))}"


def _span(seconds: float, known: Known) -> str:
    return ("" if known is Known.WHOLE else "> ") + ago(max(seconds, 1.0))


def _names(devices: Sequence[PlannedDevice]) -> str:
    more = len(devices) - NAMED
    return ", ".join(each.device for each in devices[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _counted(devices: int) -> str:
    return f"{devices} device" + ("" if devices == 1 else "s")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _line(on: Console, text: str) -> None:
    on.print(text, markup=False, soft_wrap=True)

"""One rollout's account as data: who ran what when, wave by wave and device by device, and what was found.

Pure: rows of history in, JSON out; the moment it is made is an argument. What it looks like is the
business of `report_page`; that nobody changed it afterwards, that of `sign_report`.

Laws: every device of the rollout is in it once; no time is before the one that led to it, no span is
negative; counts add up to the devices; what is read back is what was written; whatever a device may have
said, it is words and finite numbers here. Times are unix seconds, spans seconds, sizes bytes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from slmops.errors import DocumentError
from slmops.fleet.strategy import at_most
from slmops.rollout import machine
from slmops.rollout.assignment import UNDER_WAY, State
from slmops.rollout.tally import ENDED, Sort, sort_of, tally

if TYPE_CHECKING:
    from slmops.rollout.history import Entry, Happening, Line

KIND: Final = "slmops-rollout-report"
VERSION: Final = 1
FOUND: Final = (
    *("sent", "whole_because", "went", "golden", "measured", "attested"),
    *("code", "remedy", "failed", "log"),
)
"""What was found of a device that an account keeps, where it is known."""
_STATES: Final = frozenset(state.value for state in State)
_MOVES: Final = frozenset(state.value for state in machine.State)
_ENDS: Final = frozenset(state.value for state in machine.ENDS)
_GOING: Final = frozenset(state.value for state in machine.DRIVEN)
_PASSED: Final = frozenset({machine.State.SOAKING.value, machine.State.HOLDING.value})
_WORK: Final = frozenset(state.value for state in UNDER_WAY | {State.DEFERRED})
_SHOWN: Final = frozenset({Sort.GOOD, Sort.BAD, Sort.UNKNOWN})
_VERDICTS: Final = {
    **dict.fromkeys((machine.State.SUCCEEDED, machine.State.PARTIAL, machine.State.STAGED), "pass"),
    **dict.fromkeys((machine.State.RETURNED, machine.State.STUCK, machine.State.REFUSED), "fail"),
    machine.State.RETURNING: "fail",
}

TAKEN_BACK: Final = "taken back"
"""What became of a wave that was well, or whose rollout was aborted."""

Said = dict[str, Any]


def report(
    entry: Entry, lines: Sequence[Line], events: Sequence[Happening], *, made: float, audit: str | None = None
) -> Said:
    """Return the account of a rollout as it stands at `made`; `audit` is the digest of the last audit entry.

    A device's `course` is what it went through: each state with when it began and how long it took, the
    last one's span null where it goes on, or is an end.
    """
    courses, moves = _courses(entry, lines, events), _moves(entry, events)
    ended = entry.state in _ENDS
    last = max((event.at for event in events), default=entry.started)
    until = max(entry.started, last, entry.changed if ended else made)
    devices = [_device(line, courses[line.device]) for line in lines]
    return {
        "type": KIND,
        "version": VERSION,
        "made": made,
        "rollout": {
            "number": entry.id,
            "uid": entry.uid,
            "epoch": entry.epoch,
            "fleet": entry.fleet,
            "release": entry.release,
            "digest": entry.digest,
            "operator": entry.operator,
            "options": _plain(entry.options),
            "state": entry.state,
            "ended": ended,
            "started": entry.started,
            "until": until,
            "seconds": until - entry.started,
        },
        "audit": audit,
        "counts": _counts(line.state for line in lines),
        "sent": sum(_sent(device) for device in devices),
        "moves": _spans(moves, None if ended else until),
        "asked": [
            {"at": event.at, "what": event.what}
            for event in events
            if event.device is None and event.what not in _MOVES
        ],
        "waves": [_wave(number, entry, devices) for number in range(1, entry.waves + 1)],
        "devices": devices,
    }


def render(said: Said) -> bytes:
    """Return an account as JSON."""
    return (json.dumps(said, indent=1, allow_nan=False) + "\n").encode()


def parse(data: bytes, name: str = "report.json") -> Said:
    """Read an account; raise DocumentError where it is none, or of a version that is not known here."""
    try:
        said = json.loads(data)
    except ValueError as error:
        raise DocumentError(f"{name}: not JSON: {error}") from error
    if not isinstance(said, dict) or said.get("type") != KIND:
        raise DocumentError(f"{name} is no report of a rollout: expected type {KIND}")
    if said.get("version") != VERSION:
        raise DocumentError(
            f"{name}: expected version {VERSION}, got {said.get('version')!r}",
            remedy="Read it with the slmops that wrote it, or a newer one.",
        )
    return said


def wave_name(entry: Entry, number: int) -> str:
    """Return what its strategy calls a wave: canary, 10%, site=berlin; empty where that is not known."""
    waves = entry.options.get("waves")
    said = waves[number - 1] if isinstance(waves, list) and len(waves) >= number else None
    return str(said.get("name", "")) if isinstance(said, dict) else ""


def state_in(what: str) -> str | None:
    """Return the state that history's words of a device begin with."""
    return next((state for state in _STATES if what == state or what.startswith(f"{state} ")), None)


def _courses(
    entry: Entry, lines: Sequence[Line], events: Iterable[Happening]
) -> dict[str, list[tuple[float, str]]]:
    """Return for each device when it came into which state, never earlier than into the one before."""
    found: dict[str, list[tuple[float, str]]] = {
        line.device: [(entry.started, State.WAITING.value)] for line in lines
    }
    for event in events:
        course, state = found.get(event.device or ""), state_in(event.what)
        if course is not None and state is not None and state != course[-1][1]:
            course.append((max(event.at, course[-1][0]), state))
    return found


def _moves(entry: Entry, events: Iterable[Happening]) -> list[tuple[float, str]]:
    found = [(entry.started, machine.State.PLANNED.value)]
    for event in events:
        if event.device is None and event.what in _MOVES and event.what != found[-1][1]:
            found.append((max(event.at, found[-1][0]), event.what))
    return found


def _spans(course: Sequence[tuple[float, str]], until: float | None) -> list[Said]:
    """Return each state with when it began and its seconds; the last goes on to `until`, or is an end."""
    ends: list[float | None] = [after - at for (at, _), (after, _) in pairwise(course)]
    ends.append(None if until is None else max(0.0, until - course[-1][0]))
    return [
        {"state": state, "at": at, "seconds": seconds}
        for (at, state), seconds in zip(course, ends, strict=True)
    ]


def _device(line: Line, course: Sequence[tuple[float, str]]) -> Said:
    began = next((at for at, state in course if state in _WORK), None)
    ended = course[-1][0] if sort_of(line.state) in ENDED else None
    return {
        "device": line.device,
        "wave": line.wave,
        "state": line.state,
        "sort": sort_of(line.state).value,
        "message": line.message,
        "began": began,
        "ended": ended,
        "seconds": None if began is None or ended is None else ended - began,
        "course": _spans(course, None),
        **{key: _plain(line.evidence[key]) for key in FOUND if key in line.evidence},
    }


def _wave(number: int, entry: Entry, devices: Sequence[Said]) -> Said:
    its = [device for device in devices if device["wave"] == number]
    began = [device["began"] for device in its if device["began"] is not None]
    ended = [device["ended"] for device in its]
    return {
        "wave": number,
        "name": wave_name(entry, number),
        "devices": len(its),
        "verdict": _verdict(number, entry, its),
        "counts": _counts(device["state"] for device in its),
        "sent": sum(_sent(device) for device in its),
        "began": min(began, default=None),
        "ended": max(ended) if its and None not in ended else None,
    }


def _verdict(number: int, entry: Entry, its: Sequence[Said]) -> str | None:
    """Return what a wave has shown, or that it was taken back; None while it goes on or has not begun."""
    sorts = tally(device["state"] for device in its)
    returned = any(device["state"] == State.RETURNED.value for device in its)
    if number <= entry.wave:
        return TAKEN_BACK if returned else "pass"
    if number > entry.wave + 1 or not (returned or any(map(_has_begun, its))):
        return None
    if entry.state in _PASSED:
        return "pass"
    if returned and not sorts[Sort.BAD] + sorts[Sort.UNKNOWN]:
        return TAKEN_BACK
    found = next((said for state, said in _VERDICTS.items() if state.value == entry.state), None)
    if found is not None or entry.state in _GOING:
        return found
    most = at_most(_accepted(number, entry), sorts[Sort.BAD] + sorts[Sort.GOOD])
    return "fail" if sorts[Sort.BAD] > most else "inconclusive"


def _has_begun(device: Said) -> bool:
    return device["began"] is not None or sort_of(device["state"]) in _SHOWN


def _accepted(number: int, entry: Entry) -> int | str:
    """Return how many devices of a wave, or which share, may fail: by its terms, where they are known."""
    waves = entry.options.get("waves")
    said = waves[number - 1] if isinstance(waves, list) and len(waves) >= number else None
    found = said.get("max_failures") if isinstance(said, dict) else None
    return found if isinstance(found, int | str) else 0


def _counts(states: Iterable[str]) -> Said:
    """Return how many are of each sort and in each state."""
    there = Counter(states)
    sorts = {sort.value: count for sort, count in tally(there.elements()).items()}
    return {"devices": there.total(), **sorts, "states": dict(sorted(there.items()))}


def _sent(device: Mapping[str, Any]) -> int:
    sent = device.get("sent")
    return sent if isinstance(sent, int) and sent > 0 else 0


def _plain(value: Any) -> Any:
    """Return what JSON can say of a value: no number in it is infinite or none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value

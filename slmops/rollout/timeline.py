"""Where the course of a rollout lies in a drawing: time to the right, its devices beneath each other by wave.

Pure: an account in, places out, in the units of the drawing. Knows no colours and no HTML; what is to be
seen is named by a hue.

Laws: whatever is drawn lies inside the drawing; what is later never lies left of what is earlier; every
device has one row, its spans in order and without overlap; of more devices than can be told apart a wave
shows how many are in which state, and these always add up to its devices.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from slmops.build.plot import Axis, Box, Tick
from slmops.rollout.assignment import State
from slmops.rollout.machine import State as Standing
from slmops.rollout.tally import Sort, sort_of

TOLD_APART: Final = 200
"""Devices that have rows of their own, at most."""
HUES: Final = ("bad", "unknown", "out", "good", "proved", "trial", "staged", "sending", "deferred", "waiting")
"""What can be seen of a device, in the order in which a wave's areas lie upon each other, from below."""
BANDS: Final = {
    Standing.SOAKING.value: "soak",
    Standing.RETURNING.value: "return",
    Standing.PAUSED.value: "stop",
    Standing.HOLDING.value: "stop",
    Standing.INTERRUPTED.value: "stop",
}
"""What the whole rollout did that is shown behind its devices."""
COLUMNS: Final = 240
"""Moments at which the devices of a wave are counted."""

_LETTER, _NAME_SHARE = 6.6, 0.26
_GAP, _HEAD = 10, 16
"""Above each wave, and its words."""
_AREA = 84
_SPACE = 64
"""Units between ticks, at least about."""
_TICKS: Final = (
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800),
)
_FADES: Final = frozenset({"good", "bad", "unknown", "out"})


@dataclass(frozen=True)
class Span:
    """A state that lasted."""

    x: float
    width: float
    hue: str
    text: str


@dataclass(frozen=True)
class Row:
    """A device: what it went through, and what came of it."""

    device: str
    name: str
    """As much of its name as there is room for."""
    y: float
    """Its middle."""
    height: float
    spans: tuple[Span, ...]
    """While somebody worked on it."""
    ends: tuple[Span, ...]
    """While nobody did any more: it is done, or was until it went back."""


@dataclass(frozen=True)
class Area:
    """How many devices of a wave are of a hue, over time: the corners of a shape."""

    hue: str
    corners: tuple[tuple[float, float], ...]
    most: int


@dataclass(frozen=True)
class Wave:
    """A wave: words above its rows or its areas."""

    title: str
    box: Box
    rows: tuple[Row, ...] = ()
    areas: tuple[Area, ...] = ()
    marks: tuple[Span, ...] = ()
    """Where devices without rows ended badly."""
    bands: tuple[Span, ...] = ()
    """When it soaked, or went back."""


@dataclass(frozen=True)
class Timeline:
    """A drawing: its outer size, the frame of time, and what is in it."""

    width: float
    height: float
    frame: Box
    ticks: tuple[Tick, ...]
    stops: tuple[Span, ...]
    """When nobody drove it."""
    waves: tuple[Wave, ...]
    hues: tuple[str, ...]
    """Those that are to be seen, for the key."""


def hue_of(state: str) -> str:
    """Return what is to be seen of a device in a state."""
    ends = {Sort.GOOD: "good", Sort.BAD: "bad", Sort.UNKNOWN: "unknown", Sort.OUT: "out"}
    return ends.get(sort_of(state), state)


def lay_out(said: Mapping[str, Any], *, width: float) -> Timeline:
    """Place the devices of an account; those that had it already or were left out have nothing to show."""
    shown = [device for device in said["devices"] if device["wave"] > 0]
    many = len(shown) > TOLD_APART
    left = 34.0 if many else _gutter([device["device"] for device in shown], width)
    began, until = said["rollout"]["started"], said["rollout"]["until"]
    axis = Axis(began, max(until, began + 1), left, width - 10, log=False)
    waves, y = [], 4.0
    for each in said["waves"]:
        its = [device for device in shown if device["wave"] == each["wave"]]
        if not its:
            continue
        title = _title(each)
        wave = _areas(title, its, axis, y) if many else _rows(title, its, axis, y, len(shown))
        waves.append((min((d["began"] for d in its if d["began"] is not None), default=math.inf), wave))
        y = wave.box.bottom + _GAP
    frame = Box(left, 0, width - 10, y)
    bands = list(_bands(said["moves"], axis))
    return Timeline(
        width=width,
        height=y + 26,
        frame=frame,
        ticks=tuple(_ticks(axis)),
        stops=tuple(band for _, band in bands if band.hue == "stop"),
        waves=tuple(_banded(waves, [(at, band) for at, band in bands if band.hue != "stop"])),
        hues=tuple(hue for hue in reversed(HUES) if hue in set(_seen(wave for _, wave in waves))),
    )


def _gutter(names: Sequence[str], width: float) -> float:
    longest = max(map(len, names), default=0)
    return round(min(longest * _LETTER + 12, width * _NAME_SHARE), 1)


def _title(wave: Mapping[str, Any]) -> str:
    name = f" ({wave['name']})" if wave["name"] else ""
    return f"wave {wave['wave']}{name}: {wave['devices']:,} device" + ("s" if wave["devices"] > 1 else "")


def _rows(title: str, devices: Sequence[Mapping[str, Any]], axis: Axis, top: float, among: int) -> Wave:
    height = 18.0 if among <= 40 else 13.0 if among <= 100 else 9.0  # noqa: PLR2004 - rows of a page
    rows = []
    for place, device in enumerate(devices):
        y = top + _HEAD + height * (place + 0.5)
        rows.append(_row(device, axis, y, height))
    bottom = top + _HEAD + height * len(devices)
    return Wave(title, Box(axis.start, top + _HEAD, axis.end, bottom), tuple(rows))


def _row(device: Mapping[str, Any], axis: Axis, y: float, height: float) -> Row:
    spans = [_span(device["device"], span, axis) for span in device["course"]]
    return Row(
        device=device["device"],
        name=_cut(device["device"], int((axis.start - 8) / _LETTER)) if height > 9 else "",  # noqa: PLR2004
        y=round(y, 1),
        height=round(height * 0.62, 1),
        spans=tuple(span for span in spans if span.hue not in {State.WAITING.value, *_FADES}),
        ends=tuple(span for span in spans if span.hue in _FADES),
    )


def _span(name: str, said: Mapping[str, Any], axis: Axis) -> Span:
    x, seconds = axis.at(said["at"]), said["seconds"]
    end = axis.end if seconds is None else axis.at(said["at"] + seconds)
    took = "" if seconds is None else f", {elapsed(seconds)}"
    text = f"{name}: {said['state']}{took}"
    return Span(x, round(max(end - x, 0), 1), hue_of(said["state"]), text)


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else name[: max(letters - 1, 1)] + "…"


def _areas(title: str, devices: Sequence[Mapping[str, Any]], axis: Axis, top: float) -> Wave:
    """Count the devices of a wave at many moments, and lay the counts upon each other."""
    box = Box(axis.start, top + _HEAD, axis.end, top + _HEAD + _AREA)
    moments = [axis.low + (axis.high - axis.low) * place / COLUMNS for place in range(COLUMNS + 1)]
    counts = _counted(devices, moments)
    lower = [0] * len(moments)
    areas = []
    for hue in HUES:
        upper = [below + count[hue] for below, count in zip(lower, counts, strict=True)]
        most = max(count[hue] for count in counts)
        if most:
            there = [axis.at(moment) for moment in moments]
            edge = [_height(box, many, len(devices)) for many in upper]
            base = [_height(box, many, len(devices)) for many in lower]
            corners = (*zip(there, edge, strict=True), *reversed([*zip(there, base, strict=True)]))
            areas.append(Area(hue, corners, most))
        lower = upper
    marks = {
        span.x: span
        for device in devices
        if hue_of(device["state"]) == "bad"
        for span in [_span(device["device"], device["course"][-1], axis)]
    }
    return Wave(title, box, areas=tuple(areas), marks=tuple(marks.values()))


def _counted(devices: Sequence[Mapping[str, Any]], moments: Sequence[float]) -> list[Counter[str]]:
    """Return how many devices are of which hue at each moment."""
    found: list[Counter[str]] = [Counter() for _ in moments]
    for device in devices:
        begins = [span["at"] for span in device["course"]]
        hues = [hue_of(span["state"]) for span in device["course"]]
        for count, moment in zip(found, moments, strict=True):
            count[hues[max(bisect_right(begins, moment) - 1, 0)]] += 1
    return found


def _height(box: Box, many: int, of: int) -> float:
    return round(box.bottom - (box.bottom - box.top) * many / of, 1)


def _banded(waves: Sequence[tuple[float, Wave]], bands: Sequence[tuple[float, Span]]) -> Iterator[Wave]:
    """Yield the waves, each with the bands that began while no wave after it had."""
    begins = [began for began, _ in waves]
    for place, (_, wave) in enumerate(waves):
        its = (band for at, band in bands if bisect_right(begins, at) - 1 == place)
        yield replace(wave, bands=tuple(its))


def _bands(moves: Sequence[Mapping[str, Any]], axis: Axis) -> Iterator[tuple[float, Span]]:
    for move in moves:
        hue = BANDS.get(move["state"])
        if hue is not None and move["seconds"]:
            x = axis.at(move["at"])
            end = axis.at(move["at"] + move["seconds"])
            text = f"{move['state']}, {elapsed(move['seconds'])}"
            yield move["at"], Span(x, round(max(end - x, 0), 1), hue, text)


def _ticks(axis: Axis) -> Iterator[Tick]:
    most = max(2, int((axis.end - axis.start) / _SPACE))
    long = axis.high - axis.low
    step = next((step for step in _TICKS if long / step <= most), math.ceil(long / most))
    for place in range(int(long // step) + 1):
        yield Tick(axis.at(axis.low + place * step), elapsed(place * step) if place else "0")


def _seen(waves: Iterable[Wave]) -> Iterator[str]:
    for wave in waves:
        yield from (area.hue for area in wave.areas)
        for row in wave.rows:
            yield from (span.hue for span in (*row.spans, *row.ends))


def elapsed(seconds: float) -> str:
    """Write a span: 0.4 s, 45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 9.95:  # noqa: PLR2004 - then tenths are noise
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit, length, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"

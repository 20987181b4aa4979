"""Where everything in a plot of size against loss lies, in the units of the drawing.

Pure: amounts in, places out. Knows nothing of models, colours or HTML.

Laws: whatever is drawn lies inside the figure, and every mark inside the frame; a larger file never lies
left of a smaller one, a larger loss never below a lesser; ticks lie on their axis and rise; labels of
marks meet neither each other nor a mark nor the front, and where there is no room for one it is left
out; no mark is both smaller and closer to the source than one on the front; the same amounts give the
same figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from slmops.profile.sizes import UNITS

LEAST, MOST = 1e-6, 1e3
"""Losses beyond these are drawn at these: nobody can tell models apart that lie so near or so far."""

_LETTER, _ASCENT, _DESCENT = 7, 9, 3
"""A letter's width and a line's extent around its baseline where letters are 11 units high, generously."""
_MARGIN = 2
"""How far the axis of losses goes on beyond the outermost one, as a multiple."""
_DECADES = 2
"""The axis of losses spans at least so many powers of ten."""
_WIDE = 4
"""Sizes further apart than this, as a multiple, are drawn on a logarithmic axis."""
_NEAR = 2
"""A limit so many times larger than the largest file, or smaller than the smallest, is not drawn to scale."""
_SPACE = 84
"""Units between ticks on the axis of sizes, at least about."""
_RADIUS, _RING = 6, 11
"""Room around the middle of a mark, and of the first, which wears a ring."""
_DISTANCES = (10, 20, 32, 46)
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return whether the two share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Return whether the other lies wholly inside."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


@dataclass(frozen=True)
class Axis:
    """Amounts from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, amount: float) -> float:
        """Return where an amount is drawn; one beyond an end of the axis at that end."""
        held = min(max(amount, self.low), self.high)
        if self.log:
            share = math.log(held / self.low) / math.log(self.high / self.low)
        else:
            share = (held - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * share, 1)


@dataclass(frozen=True)
class Tick:
    """A place on an axis; the text is empty where it only shows how the axis runs."""

    at: float
    text: str


@dataclass(frozen=True)
class Label:
    """Words, where their baseline begins, ends or has its middle."""

    text: str
    x: float
    y: float
    anchor: Anchor

    @property
    def box(self) -> Box:
        """Return the room that the words may take."""
        width = _LETTER * len(self.text)
        left = self.x - {"start": 0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left, self.y - _ASCENT, left + width, self.y + _DESCENT)


@dataclass(frozen=True)
class Mark:
    """One model file."""

    text: str
    bytes: int
    loss: float | None
    """None where it was not measured."""
    error: float = math.nan
    """How far the loss may be off, to each side."""
    first: bool = False
    """Whether its label goes before all others."""


@dataclass(frozen=True)
class Placed:
    """A mark in the figure. One that was not measured stands on the axis of sizes."""

    x: float
    y: float
    top: float
    """Ends of the error bar; both are `y` where there is none."""
    bottom: float
    measured: bool
    under: bool
    """Whether its loss is less than the axis shows."""
    label: Label | None
    apart: bool
    """Whether the label is so far away that a line must lead to it."""


@dataclass(frozen=True)
class Level:
    """A loss that is drawn as a line across."""

    y: float
    label: Label


@dataclass(frozen=True)
class Limit:
    """A size that is drawn as a line upright; where the axis does not reach so far, it is words alone."""

    x: float | None
    label: Label


@dataclass(frozen=True)
class Figure:
    """A plot: its outer size, its frame, and what is in it, in the order given."""

    width: float
    height: float
    frame: Box
    sizes: tuple[Tick, ...]
    losses: tuple[Tick, ...]
    marks: tuple[Placed, ...]
    levels: tuple[Level, ...]
    limits: tuple[Limit, ...]
    front: tuple[tuple[float, float], ...]
    """Corners of the stairs that join the marks on the front."""


def lay_out(
    marks: Sequence[Mark],
    levels: Sequence[tuple[str, float]],
    limits: Sequence[tuple[str, int]],
    *,
    width: float,
    height: float,
) -> Figure:
    """Place at least one mark, and the losses in `levels` and the sizes in `limits` with their words.

    Give the largest limit first: then the line of one seldom runs through the words of another.
    """
    frame = Box(46, 26 + 15 * len(limits), width - 14, height - 40)
    across = _size_axis([mark.bytes for mark in marks], [size for _, size in limits], frame)
    up = _loss_axis([*(mark.loss for mark in marks), *(loss for _, loss in levels)], frame)
    placed = [_place(mark, across, up) for mark in marks]
    taken = [_room_of(each, mark) for each, mark in zip(placed, marks, strict=True)]
    lines = _levels(levels, up, frame, taken)
    taken += [line.label.box for line in lines]
    stairs = list(_stairs([(across.at(mark.bytes), up.at(_held(mark.loss or 0))) for mark in front(marks)]))
    taken += [_hull(*ends) for ends in pairwise(stairs)]
    return Figure(
        width=width,
        height=height,
        frame=frame,
        sizes=tuple(_size_ticks(across)),
        losses=tuple(_loss_ticks(up, under=any(each.under for each in placed))),
        marks=tuple(_labelled(marks, placed, taken, frame)),
        levels=tuple(lines),
        limits=tuple(_limit(text, size, across, row, width) for row, (text, size) in enumerate(limits)),
        front=tuple(stairs),
    )


def front(marks: Iterable[Mark]) -> list[Mark]:
    """Return those than which no other is both smaller and closer to the source, the smallest first."""
    kept: list[Mark] = []
    least = math.inf
    for mark in sorted(marks, key=lambda mark: (mark.bytes, mark.loss or 0)):
        if mark.loss is not None and mark.loss < least:
            kept.append(mark)
            least = mark.loss
    return kept


def _size_axis(sizes: Sequence[int], limits: Sequence[int], frame: Box) -> Axis:
    near = [size for size in limits if min(sizes) / _NEAR <= size <= _NEAR * max(sizes)]
    shown = [max(size, 1) for size in (*sizes, *near)]
    low, high = min(shown), max(shown)
    if high > _WIDE * low:
        margin = (high / low) ** 0.06
        return Axis(low / margin, high * margin, frame.left, frame.right, log=True)
    margin = max(0.08 * (high - low), 0.05 * high)
    return Axis(low - margin, high + margin, frame.left, frame.right, log=False)


def _loss_axis(losses: Sequence[float | None], frame: Box) -> Axis:
    held = [_held(loss) for loss in losses if loss is not None] or [LEAST]
    low, high = min(held) / _MARGIN, max(held) * _MARGIN
    return Axis(low, max(high, low * 10**_DECADES), frame.bottom, frame.top, log=True)


def _held(loss: float) -> float:
    return min(max(loss, LEAST), MOST)


def _size_ticks(axis: Axis) -> Iterator[Tick]:
    most = max(2, int((axis.end - axis.start) / _SPACE))
    for size in _powers_of_two(axis, most) if axis.log else _steps(axis, most):
        unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB", "B") if size >= UNITS[unit] or unit == "B")
        yield Tick(axis.at(size), f"{size / UNITS[unit]:g} {unit}")


def _powers_of_two(axis: Axis, most: int) -> list[float]:
    """Return powers of two, with what lies in the middle between them if there is room."""
    first, last = math.ceil(math.log2(axis.low)), math.floor(math.log2(axis.high))
    powers = [2.0**power for power in range(first, last + 1)]
    finer = sorted([*powers, *(1.5 * power for power in (powers[0] / 2, *powers))])
    shown = [size for size in finer if axis.low <= size <= axis.high]
    return shown if len(shown) <= most else powers[:: -(-len(powers) // most)]


def _steps(axis: Axis, most: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten of the unit that the largest amount is said in."""
    unit = max((size for size in (1 << 40, 1 << 30, 1 << 20, 1 << 10) if size <= axis.high), default=1)
    least = (axis.high - axis.low) / unit / most
    power = 10.0 ** math.floor(math.log10(least))
    step = unit * power * next(times for times in (1, 2, 5, 10) if times * power >= least)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [step * count for count in range(first, last + 1)]


def _loss_ticks(axis: Axis, *, under: bool) -> Iterator[Tick]:
    first, last = math.floor(math.log10(axis.low)), math.floor(math.log10(axis.high))
    for power in range(first, last + 1):
        for times in range(1, 10):
            loss = times * 10.0**power
            if max(axis.low, 0.99 * LEAST) <= loss <= axis.high:
                less = "≤ " if under and loss < 1.01 * LEAST else ""
                yield Tick(axis.at(loss), "" if times > 1 else less + _power_of_ten(power))


def _power_of_ten(power: int) -> str:
    if abs(power) <= 3:  # noqa: PLR2004 - 0.001 and 1000 are still read at a glance
        return f"{10.0**power:g}"
    return raised(power)


def raised(power: int) -> str:
    """Write a power of ten: 10⁻⁵."""
    return "10" + str(power).translate(_SUPERSCRIPT)


def _place(mark: Mark, across: Axis, up: Axis) -> Placed:
    x = across.at(mark.bytes)
    if mark.loss is None:
        return Placed(x, up.start, up.start, up.start, measured=False, under=False, label=None, apart=False)
    loss, under = _held(mark.loss), mark.loss < LEAST
    error = mark.error if math.isfinite(mark.error) and not under else 0.0
    top, bottom = up.at(loss + error), up.at(loss - error)
    return Placed(x, up.at(loss), top, bottom, measured=True, under=under, label=None, apart=False)


def _room_of(placed: Placed, mark: Mark) -> Box:
    """Return the room that a mark and its error bar take."""
    around = _RING if mark.first else _RADIUS
    x, top, bottom = placed.x, min(placed.top, placed.y - around), max(placed.bottom, placed.y + around)
    return Box(x - around, top, x + around, bottom)


def _levels(levels: Sequence[tuple[str, float]], up: Axis, frame: Box, taken: Sequence[Box]) -> list[Level]:
    """Lay a line across for each; the words of the first stand upon it, of the others beneath."""
    lines: list[Level] = []
    for text, loss in levels:
        y = up.at(_held(loss))
        heights = (y + 12, y - 4) if lines else (y - 4, y + 12)
        places = [Label(text, frame.right - 4, height, "end") for height in heights]
        places += [Label(text, frame.left + 4, height, "start") for height in heights]
        others = [*taken, *(line.label.box for line in lines)]
        lines.append(Level(y, _free(places, others, frame) or places[0]))
    return lines


def _limit(text: str, size: int, across: Axis, row: int, width: float) -> Limit:
    """Lay a line upright; its words stand over the frame, each in a row of its own."""
    y = 26 + 15 * row
    if size > across.high:
        return Limit(None, Label(f"{text} →", width - 2, y, "end"))
    if size < across.low:
        return Limit(None, Label(f"← {text}", 2, y, "start"))
    x = across.at(size)
    label = Label(text, x, y, "end")
    return Limit(x, label if label.box.left >= 0 else Label(text, x, y, "start"))


def _labelled(marks: Sequence[Mark], placed: Sequence[Placed], taken: list[Box], frame: Box) -> list[Placed]:
    """Give each mark its label where there is room near it, the most important ones first."""
    found = list(placed)
    inner = Box(frame.left + _RADIUS, frame.top, frame.right, frame.bottom)
    order = sorted(range(len(marks)), key=lambda i: (not marks[i].first, not placed[i].measured, placed[i].x))
    for i in order:
        near = list(_around(marks[i], placed[i]))
        label = _free(near, taken, inner)
        if label:
            found[i] = replace(placed[i], label=label, apart=near.index(label) >= len(_DIRECTIONS))
            taken.append(label.box)
    return found


def _around(mark: Mark, placed: Placed) -> Iterator[Label]:
    for distance in _DISTANCES:
        away = distance + (_RING - _RADIUS if mark.first else 0)
        for right, down in _DIRECTIONS:
            anchor: Anchor = "start" if right > 0 else "end" if right < 0 else "middle"
            y = placed.y + down * away + (_ASCENT - _DESCENT) / 2 * (1 + down)
            yield Label(mark.text, round(placed.x + right * away, 1), round(y, 1), anchor)


def _free(places: Iterable[Label], taken: Sequence[Box], frame: Box) -> Label | None:
    """Return the first of `places` that lies in the frame and meets nothing that is taken."""
    for place in places:
        if frame.holds(place.box) and not any(place.box.meets(other) for other in taken):
            return place
    return None


def _hull(one: tuple[float, float], other: tuple[float, float]) -> Box:
    """Return the room that a line between two points takes, at its full width."""
    (left, right), (top, bottom) = sorted((one[0], other[0])), sorted((one[1], other[1]))
    return Box(left - 1, top - 1, right + 1, bottom + 1)


def _stairs(steps: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for place, (x, y) in enumerate(steps):
        if place:
            yield x, steps[place - 1][1]
        yield x, y

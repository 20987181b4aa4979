"""Where the steps of a ledger lie in a plot of size against how well a model does.

Pure: amounts in, places out. Goes by the build room's plot for sizes and for losses; adds amounts that
are no losses: shares of a task, bits per byte.

Laws: whatever is drawn lies inside the figure, and every mark inside the frame; a larger amount never
lies below a lesser; shares stay between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from slmops.build.plot import Anchor, Axis, Box, Figure, Label, Mark, Placed, Tick, lay_out
from slmops.train.course import steps_of
from slmops.train.wording import short

_LEAST_SHARES = 0.1
"""The axis of shares spans at least so much: what differs less is noise."""
_UP = 36
_ROOM = 11
_POINTS = 24
_DIRECTIONS: tuple[tuple[int, int, Anchor], ...] = (
    (1, 4, "start"),
    (-1, 4, "end"),
    (0, -14, "middle"),
    (0, 22, "middle"),
    (1, -8, "start"),
    (-1, -8, "end"),
    (1, 16, "start"),
    (-1, 16, "end"),
    (0, -14, "start"),
    (0, 22, "start"),
    (0, -14, "end"),
    (0, 22, "end"),
    (0, -28, "middle"),
    (0, 36, "middle"),
    (1, -22, "start"),
    (-1, -22, "end"),
    (1, 30, "start"),
    (-1, 30, "end"),
)


@dataclass(frozen=True)
class Seen:
    """How a step of the ledger did by one measure."""

    text: str
    bytes: int
    amount: float | None
    """None where it was not measured."""
    low: float = math.nan
    """Ends of its interval, or NaN."""
    high: float = math.nan
    last: bool = False
    """Whether it is what came of it all."""


def lay_out_losses(seen: Sequence[Seen], *, width: float, height: float) -> Figure:
    """Place at least one step by its loss, on a logarithmic axis; none at all lies on that of sizes."""
    marks = [
        Mark(one.text, one.bytes, one.amount or None, error=one.high - (one.amount or 0), first=one.last)
        for one in seen
    ]
    return lay_out(marks, (), (), width=width, height=height)


def lay_out_amounts(seen: Sequence[Seen], *, shares: bool, width: float, height: float) -> Figure:
    """Place at least one step by an amount of which it was measured, on a linear axis."""
    bare = lay_out([Mark(one.text, one.bytes, None) for one in seen], (), (), width=width, height=height)
    up = _axis(seen, bare.frame, shares=shares)
    placed = [_place(one, mark, up) for one, mark in zip(seen, bare.marks, strict=True)]
    ticks = steps_of(up, max(2, int((up.start - up.end) / _UP)))
    return replace(
        bare,
        losses=tuple(Tick(up.at(each), f"{100 * each:.6g}%" if shares else short(each, 4)) for each in ticks),
        marks=tuple(_labelled(seen, placed, bare.frame)),
        front=(),
    )


def _axis(seen: Sequence[Seen], frame: Box, *, shares: bool) -> Axis:
    known = [one for one in seen if one.amount is not None]
    ends = [end for one in known for end in (one.amount, one.low, one.high) if end is not None]
    held = [min(max(end, 0.0), 1.0) if shares else end for end in ends if math.isfinite(end)] or [0.0]
    low, high = min(held), max(held)
    least = _LEAST_SHARES if shares else 0.02 * abs(high) or 1.0
    margin = max(0.1 * (high - low), (least - (high - low)) / 2)
    low, high = low - margin, high + margin
    if shares:
        low, high = max(low, 0.0), min(high, 1.0)
    return Axis(low, high, frame.bottom, frame.top, log=False)


def _place(one: Seen, bare: Placed, up: Axis) -> Placed:
    if one.amount is None:
        return replace(bare, label=None)
    y = up.at(one.amount)
    top, bottom = (up.at(end) if math.isfinite(end) else y for end in (one.high, one.low))
    return replace(bare, y=y, top=top, bottom=bottom, measured=True, under=False, label=None, apart=False)


def _labelled(seen: Sequence[Seen], placed: Sequence[Placed], frame: Box) -> list[Placed]:
    """Give each mark its label where there is room beside it, best off the way, the last step first."""
    found, taken = list(placed), [_room(each) for each in placed]
    way = [point for ends in pairwise(placed) for point in _between(*ends)]
    for i in sorted(range(len(seen)), key=lambda i: not seen[i].last):
        near = (label for label in _around(seen[i].text, placed[i]) if frame.holds(label.box))
        free = [label for label in near if not any(label.box.meets(other) for other in taken)]
        if free:
            label = min(free, key=lambda label: sum(label.box.meets(point) for point in way))
            found[i] = replace(placed[i], label=label)
            taken.append(label.box)
    return found


def _between(one: Placed, other: Placed) -> Iterator[Box]:
    """Yield points on the line from one mark to another."""
    for part in range(_POINTS + 1):
        share = part / _POINTS
        x, y = one.x + share * (other.x - one.x), one.y + share * (other.y - one.y)
        yield Box(x - 1, y - 1, x + 1, y + 1)


def _room(placed: Placed) -> Box:
    top, bottom = min(placed.top, placed.y - _ROOM), max(placed.bottom, placed.y + _ROOM)
    return Box(placed.x - _ROOM, top, placed.x + _ROOM, bottom)


def _around(text: str, placed: Placed) -> Iterator[Label]:
    """Yield places for a label: beside the mark, and over and under its interval."""
    for right, down, anchor in _DIRECTIONS:
        from_ = placed.y if right else placed.top if down < 0 else placed.bottom
        yield Label(text, round(placed.x + right * _ROOM, 1), round(from_ + down, 1), anchor)

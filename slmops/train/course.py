"""Where the course of a training lies in a drawing: losses over the tokens read, the learning rate beneath.

Pure: numbers in, places out, in the units of the drawing. Knows nothing of models, colours or HTML.

Laws: whatever is drawn lies inside its frame; more tokens never lie left of fewer, a larger loss never
below a lesser; of a run however long at most MOST steps are drawn, among them the first, the last, the
best, and that of the least loss; what is no number is not drawn; the same run gives the same drawing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slmops.build.plot import Anchor, Axis, Box, Label, Tick
from slmops.train.wording import counted, short

MOST = 600
"""Steps that are drawn of a line, at most."""
PART = 40
"""A smoothed loss is the mean over this part of the run to each side."""

_WIDE = 8
"""Losses further apart than this, as a multiple, are drawn on a logarithmic axis."""
_WIDEST = 1e6
"""Such an axis spans no more; lesser losses are drawn at its end."""
_USUAL = (0.5, 99.5)
"""The axis shows the losses of single steps between these percentiles; others are drawn at its ends."""
_ACROSS, _UP = 56, 36
"""Units between ticks on the axis of tokens and on that of losses, at least about."""
_RING = 10
"""Room around the middle of the best moment, which wears a ring."""

_SIDES: tuple[tuple[int, Anchor], ...] = ((-1, "end"), (1, "start"))

Floats = NDArray[np.float64]
Places = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Run:
    """What a training told: arrays with a number for each step, NaN where there was none."""

    steps: Floats
    tokens: Floats
    losses: Floats
    rates: Floats
    parts: Mapping[str, Floats] = field(default_factory=dict)
    validations: tuple[tuple[int, float], ...] = ()
    """Steps, 0 before the first, and their losses."""
    best: int | None = None
    """The step whose weights were kept."""


@dataclass(frozen=True)
class Dot:
    """A validation."""

    x: float
    y: float
    step: int
    loss: float


@dataclass(frozen=True)
class Course:
    """A drawing: its outer size, the frame of the losses, that of the rate, and what is in them."""

    width: float
    height: float
    frame: Box
    strip: Box
    tokens: tuple[Tick, ...]
    losses: tuple[Tick, ...]
    raw: Places
    smooth: Places
    parts: Mapping[str, Places]
    validations: tuple[Dot, ...]
    best: Dot | None
    label: Label | None
    """Of the best moment."""
    rates: Places


def lay_out_course(run: Run, *, width: float, height: float) -> Course:
    """Place what a run told; whatever of it is missing is left out."""
    frame, strip = Box(46, 26, width - 14, height - 104), Box(46, height - 78, width - 14, height - 40)
    losses, parts = smoothed(run.losses), {name: smoothed(part) for name, part in run.parts.items()}
    across = Axis(0, max(_greatest(run.tokens), 1), frame.left, frame.right, log=False)
    up = _loss_axis(run, [losses, *parts.values()], frame)
    kept = thin(run.losses, np.flatnonzero(run.steps == run.best).tolist())
    smooth = _line(run.tokens, losses, kept, across, up)
    dots = tuple(_dots(run, across, up))
    best = next((dot for dot in dots if dot.step == run.best), None)
    rate = Axis(0, max(_greatest(run.rates), 1e-12), strip.bottom, strip.top, log=False)
    return Course(
        width=width,
        height=height,
        frame=frame,
        strip=strip,
        tokens=tuple(_token_ticks(across)),
        losses=tuple(loss_ticks(up)),
        raw=_line(run.tokens, run.losses, kept, across, up),
        smooth=smooth,
        parts={name: _line(run.tokens, part, thin(part), across, up) for name, part in parts.items()},
        validations=dots,
        best=best,
        label=_label(best, [*smooth, *((dot.x, dot.y) for dot in dots)], frame) if best else None,
        rates=_line(run.tokens, run.rates, thin(run.rates), across, rate),
    )


def thin(values: Floats, keep: Iterable[int] = (), most: int = MOST) -> list[int]:
    """Return the places of at most `most` numbers, rising, that look as all of them do.

    These are all if there are no more; else the first, the last, those of `keep`, and the least and the
    greatest of each of as many equal parts as there is room for.
    """
    places = np.flatnonzero(np.isfinite(values))
    if len(places) <= most:
        return [int(place) for place in places]
    kept = {int(places[0]), int(places[-1]), *(place for place in keep if math.isfinite(values[place]))}
    for part in np.array_split(places, max((most - len(kept)) // 2, 1)):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    return sorted(kept)


def smoothed(values: Floats) -> Floats:
    """Return the mean of the numbers around each place; NaN where there are none.

    Near the start it reaches no further ahead than back, for there a loss falls steeply.
    """
    here = np.arange(len(values))
    back = np.minimum(here, len(values) // PART)
    first, last = here - back, np.minimum(here + back, len(values) - 1)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    found = counts[last + 1] - counts[first]
    return np.where(found > 0, (sums[last + 1] - sums[first]) / np.maximum(found, 1), np.nan)


def steps_of(axis: Axis, most: int) -> list[float]:
    """Return at most about `most` multiples of 1, 2 or 5 times a power of ten that lie on an axis."""
    least = (axis.high - axis.low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = power * next(times for times in (1, 2, 5, 10) if times * power >= 0.999 * least)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [step * count for count in range(first, last + 1)]


def loss_ticks(axis: Axis) -> Iterator[Tick]:
    """Yield ticks for losses."""
    most = max(2, int(abs(axis.end - axis.start) / _UP))
    for loss in _decades(axis, most) if axis.log else steps_of(axis, most):
        yield Tick(axis.at(loss), short(loss, 4))


def _decades(axis: Axis, most: int) -> list[float]:
    """Return powers of ten, with 2 and 5 times them if there is room."""
    first, last = math.floor(math.log10(axis.low)), math.floor(math.log10(axis.high))
    fine, coarse = (
        [times * 10.0**power for power in range(first, last + 1) for times in finer]
        for finer in ((1, 2, 5), (1,))
    )
    shown = [loss for loss in fine if axis.low <= loss <= axis.high]
    powers = [loss for loss in coarse if loss in shown]
    return shown if len(shown) <= most else powers[:: -(-len(powers) // most) or 1]


def _token_ticks(axis: Axis) -> Iterator[Tick]:
    for tokens in steps_of(axis, min(int((axis.end - axis.start) / _ACROSS), 8)):
        yield Tick(axis.at(tokens), counted(tokens))


def _greatest(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else 0.0


def _loss_axis(run: Run, lines: Sequence[Floats], frame: Box) -> Axis:
    """Return an axis with room for all lines and validations, and for what single steps usually come to."""
    single = run.losses[np.isfinite(run.losses)]
    usual = np.percentile(single, _USUAL) if len(single) else np.array([])
    all_ = np.concatenate([*lines, usual, [loss for _, loss in run.validations]])
    known = all_[np.isfinite(all_)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low > 0 and high > _WIDE * low:
        low = max(low, high / _WIDEST)
        margin = (high / low) ** 0.06
        return Axis(low / margin, high * margin, frame.bottom, frame.top, log=True)
    margin = max(0.06 * (high - low), 0.01 * abs(high), 1e-9)
    held = max(low - margin, 0.0) if low >= 0 else low - margin
    return Axis(held, high + margin, frame.bottom, frame.top, log=False)


def _line(tokens: Floats, values: Floats, kept: Sequence[int], across: Axis, up: Axis) -> Places:
    return tuple(
        (across.at(float(tokens[place])), up.at(float(values[place])))
        for place in kept
        if math.isfinite(values[place]) and math.isfinite(tokens[place])
    )


def _dots(run: Run, across: Axis, up: Axis) -> Iterator[Dot]:
    """Yield the validations, each where the step after which it was made has its tokens."""
    known = np.isfinite(run.steps) & np.isfinite(run.tokens)
    steps, tokens = (np.concatenate([[0.0], values[known]]) for values in (run.steps, run.tokens))
    for step, loss in run.validations:
        if math.isfinite(loss):
            yield Dot(across.at(float(np.interp(step, steps, tokens))), up.at(loss), step, loss)


def _label(best: Dot, points: Sequence[tuple[float, float]], frame: Box) -> Label:
    """Return words for the best moment, in the frame, where they meet fewest points."""
    text = f"best: {short(best.loss, 3)} at step {best.step:,}"
    places = [
        Label(text, round(best.x + right * _RING, 1), round(best.y + down, 1), anchor)
        for down in (18, -14, 34, -30, -54, 58)
        for right, anchor in _SIDES
    ]
    inside = [place for place in places if frame.holds(place.box)] or places[:1]
    return min(inside, key=lambda place: sum(_holds(place.box, point) for point in points))


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box.left - 3 <= point[0] <= box.right + 3 and box.top - 3 <= point[1] <= box.bottom + 3

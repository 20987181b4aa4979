"""How a training went: what every step came to, and what every validation found.

Pure: lines in and out. Law: what is written as lines reads back as the same curve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Point:
    """What a step came to."""

    step: int
    """Steps done, this one counted."""
    steps: int
    """Of the whole run, unless it ends early."""
    tokens: int
    """Read in training since the run began, padding not counted."""
    loss: float
    """Mean of what is minimised over what was learned in this step, in nats."""
    rate: float
    """The learning rate."""
    gradient: float
    """Length of the mean gradient, before it was clipped."""
    tokens_per_second: float
    """Of this step, without validations and saving."""
    seconds: float
    """Of the run up to here, validations counted; of a run that was resumed, all its parts."""
    seconds_left: float
    """About, at the pace of this process so far."""
    validation: float
    """The latest validation loss: before the first, that of the model as it came."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Means of what the loss is made of."""


@dataclass(frozen=True)
class Validation:
    """What a model came to on samples that it does not learn."""

    step: int
    """After which step; 0 is before the first."""
    loss: float
    """Mean, in nats."""
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A whole run."""

    points: tuple[Point, ...] = ()
    validations: tuple[Validation, ...] = ()


def line(entry: Point | Validation) -> str:
    """Return an entry as a line of JSON."""
    kind = "step" if isinstance(entry, Point) else "validation"
    return json.dumps({"kind": kind, **asdict(entry)}) + "\n"


def read(lines: Iterable[str]) -> Curve:
    """Return the curve whose entries `line` wrote."""
    points, validations = list[Point](), list[Validation]()
    for said in map(json.loads, lines):
        if said.pop("kind") == "step":
            points.append(Point(**said))
        else:
            validations.append(Validation(**said))
    return Curve(tuple(points), tuple(validations))

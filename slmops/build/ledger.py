"""What each step on a model's way cost and kept: a ledger, from the teacher to what a device gets.

Pure. A ledger lies as ledger.json beside the model it speaks of; the card of every artifact made of it
carries it on. Its steps are measured with one gauge: a step that is measured with another begins a new one.

Laws: what is written reads back the same; a step is added at the end and none is changed; where a
figure was not measured nothing stands, and never a zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from slmops.errors import ModelError
from slmops.profile.sizes import human_size

FILE_NAME = "ledger.json"
UNKNOWN = "-"
NO_LOSS = 1e-9
"""Nats that are rounding alone."""
HEADS = ("step", "parameters", "size", "KL", "same first", "bits/byte")


@dataclass(frozen=True)
class Score:
    """How a model did on a task: shares of its items, 0..1."""

    accuracy: float
    low: float
    """Ends of the 95 % interval."""
    high: float
    items: int
    way: str = ""
    """How a choice was made: "by byte", "greedily", ..."""


@dataclass(frozen=True)
class Stage:
    """A model on the way, and what was measured of it."""

    name: str
    """"teacher", "pruned", "distilled", or the format and type of an artifact."""
    what: str
    """What was done, in a sentence."""
    parameters: int
    bytes: int
    """Of its weights' file or files."""
    digest: str
    measured: dict[str, float] = field(default_factory=dict)
    """Against the teacher: kl_mean and top1 (nats, 0..1); its own bits_per_byte and perplexity."""
    tasks: dict[str, Score] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    """On the machine that measured, which the ledger names: decode_per_second, prompt_per_second (tokens)
    or texts_per_second; threads."""


@dataclass(frozen=True)
class Ledger:
    """The way of a model so far."""

    gauge: dict[str, str] = field(default_factory=dict)
    """With what all of it was measured: texts and tasks with their digests, tokens, machine."""
    stages: tuple[Stage, ...] = ()

    def with_stage(self, stage: Stage) -> Ledger:
        """Return the ledger with one more step."""
        return replace(self, stages=(*self.stages, stage))

    @property
    def tasks(self) -> list[str]:
        """Return the names of all tasks, as they first come."""
        return list(dict.fromkeys(name for stage in self.stages for name in stage.tasks))


def render(ledger: Ledger) -> str:
    """Return the ledger as its file has it."""
    return json.dumps(asdict(ledger), indent=2) + "\n"


def parse(text: str, name: str) -> Ledger:
    """Return the ledger that the file called `name` holds; raise ModelError when it is none."""
    try:
        said = json.loads(text)
        return Ledger(said["gauge"], tuple(_stage(one) for one in said["stages"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name} is no ledger: {error!r}", remedy="Remove it; the model is whole without it."
        ) from error


def rows(ledger: Ledger) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the heads of a table of the ledger, and a row of words for each step."""
    heads = (*HEADS, *ledger.tasks, *([_SPEEDS[key] for key in _spoken(ledger)]))
    return heads, [tuple(_cells(ledger, stage)) for stage in ledger.stages]


def markdown(ledger: Ledger) -> list[str]:
    """Return the table as lines of a model card."""
    heads, body = rows(ledger)
    lines = [f"| {' | '.join(row)} |" for row in (heads, tuple("---" for _ in heads), *body)]
    return [*lines, "", *(f"- {stage.name}: {stage.what}" for stage in ledger.stages)]


_SPEEDS = {"decode_per_second": "tokens/s", "texts_per_second": "texts/s"}


def _spoken(ledger: Ledger) -> list[str]:
    return [key for key in _SPEEDS if any(key in stage.speed for stage in ledger.stages)]


def _cells(ledger: Ledger, stage: Stage) -> Iterator[str]:
    said = stage.measured
    yield from (stage.name, f"{stage.parameters:,}", human_size(stage.bytes))
    loss = said.get("kl_mean")
    yield "0" if loss is not None and loss < NO_LOSS else _number(loss, "{:.3g}")
    yield _number(said.get("top1"), "{:.1%}")
    yield _number(said.get("bits_per_byte"), "{:.4f}")
    for name in ledger.tasks:
        score = stage.tasks.get(name)
        yield f"{score.accuracy:.1%} ({score.low:.1%} to {score.high:.1%})" if score else UNKNOWN
    for key in _spoken(ledger):
        yield _number(stage.speed.get(key), "{:.0f}")


def _number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else form.format(value)


def _stage(said: Mapping[str, Any]) -> Stage:
    tasks = {name: Score(**score) for name, score in said["tasks"].items()}
    return Stage(**{**said, "tasks": tasks})

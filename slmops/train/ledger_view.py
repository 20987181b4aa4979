"""A ledger as a page shows it: a table with a row for each step, and plots of size against what it kept.

Pure. Takes the ledger as JSON has it, whatever figures it lacks.

Laws: every step has a row, in the order of the ledger, with a cell under each head; every step whose
size is known has a mark in every plot; there is a plot only of what was measured of some step.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.build.divergence import CONFIDENT
from slmops.build.ledger import HEADS
from slmops.build.plot import Figure
from slmops.train.trade import Seen, lay_out_amounts, lay_out_losses
from slmops.train.wording import counted, known, number, share, short, size, whole

PANEL = (330, 240)
"""Width and height of a plot in units of a letter's 1/11."""
LABEL = 20
"""Letters of a step's name in a plot, at most; for whom an artifact was made is left to the table."""
ALIKE = 1.05
"""Sizes closer than this, as a multiple, are the same to people."""
_MEASURES = {"bits_per_byte": "bits/byte", "perplexity": "perplexity"}
_SPEEDS = {"decode_per_second": "tokens/s", "texts_per_second": "texts/s"}

Stage = Mapping[str, Any]
Stages = Sequence[Stage]


@dataclass(frozen=True)
class Row:
    """A step in the table."""

    name: str
    what: str
    digest: str
    cells: tuple[tuple[str, str], ...]
    """A figure under each head but the first, and what stands beside it, smaller."""
    last: bool


@dataclass(frozen=True)
class Panel:
    """A plot of size against one measure."""

    title: str
    figure: Figure
    said: tuple[str, ...]
    """Of each mark, in words."""

    @property
    def bare(self) -> bool:
        """Return whether a step stands on the axis of sizes."""
        return not all(mark.measured for mark in self.figure.marks)


def heads(stages: Stages) -> list[str]:
    """Return the heads of the table."""
    return [*HEADS[:3], *(head for head, _ in _further(stages))]


def rows(stages: Stages) -> list[Row]:
    """Return the rows of the table."""
    further = [cells for _, cells in _further(stages)]
    return [
        Row(
            name=stage["name"],
            what=stage["what"],
            digest=stage["digest"],
            cells=(*_cells(stages[0], stage), *(cells[place] for cells in further)),
            last=stage is stages[-1],
        )
        for place, stage in enumerate(stages)
    ]


def panels(stages: Stages) -> Iterator[Panel]:
    """Yield the plots: loss, tasks, bits per byte."""
    sized = [stage for stage in stages if known(stage.get("bytes")) is not None]
    losses = [_seen(stage, sized, stage["measured"], "kl_mean") for stage in sized]
    if any(one.amount for one in losses):
        figure = lay_out_losses(losses, width=PANEL[0], height=PANEL[1])
        yield Panel("mean KL divergence, nats", figure, _said(sized, losses, short))
    for name in tasks(sized):
        scores = [_seen(stage, sized, score_of(stage, name), "accuracy") for stage in sized]
        if any(one.amount is not None for one in scores):
            figure = lay_out_amounts(scores, shares=True, width=PANEL[0], height=PANEL[1])
            yield Panel(f"{name}: share right", figure, _said(sized, scores, share))
    bits = [_seen(stage, sized, stage["measured"], "bits_per_byte") for stage in sized]
    if any(one.amount is not None for one in bits):
        figure = lay_out_amounts(bits, shares=False, width=PANEL[0], height=PANEL[1])
        yield Panel("bits per byte of held-out text", figure, _said(sized, bits, short))


def tasks(stages: Stages) -> list[str]:
    """Return the names of all tasks, as they first come; right labels of a classifier's texts are one."""
    labelled = any("accuracy" in stage["measured"] for stage in stages)
    names = [name for stage in stages for name in stage["tasks"]]
    return list(dict.fromkeys([*(["right labels"] if labelled else []), *names]))


def score_of(stage: Stage, task: str) -> Mapping[str, Any]:
    """Return accuracy, low and high of a task; none of them where it was not measured."""
    if task in stage["tasks"]:
        return stage["tasks"][task] or {}
    said = stage["measured"]
    if task != "right labels" or "accuracy" not in said:
        return {}
    return {
        "accuracy": said["accuracy"],
        "low": said.get("accuracy_low"),
        "high": said.get("accuracy_high"),
    }


def smaller(first: Stage, stage: Stage) -> float | None:
    """Return how many times smaller a step is than the first."""
    before, after = known(first.get("bytes")), known(stage.get("bytes"))
    return before / after if before and after else None


def _cells(first: Stage, stage: Stage) -> Iterator[tuple[str, str]]:
    ratio = smaller(first, stage)
    yield whole(stage.get("parameters")), ""
    yield size(stage.get("bytes")), f"÷ {short(ratio, 2)}" if ratio and ratio >= ALIKE else ""


def _further(stages: Stages) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield heads of what only some ledgers have, each with its cells."""
    if _any(stages, "measured", "kl_mean"):
        losses = [stage["measured"] for stage in stages]
        yield HEADS[3], [(short(said.get("kl_mean"), 2), _error(said)) for said in losses]
        yield HEADS[4], [(share(said.get("top1")), "") for said in losses]
    for name, head in _MEASURES.items():
        if _any(stages, "measured", name):
            yield head, [(short(stage["measured"].get(name), 4), "") for stage in stages]
    for task in tasks(stages):
        scores = [score_of(stage, task) for stage in stages]
        yield task, [(share(score.get("accuracy")), _between(score)) for score in scores]
    for name, head in _SPEEDS.items():
        if _any(stages, "speed", name):
            yield head, [(counted(stage["speed"].get(name)), "") for stage in stages]


def _any(stages: Stages, where: str, name: str) -> bool:
    return any(known(stage[where].get(name)) is not None for stage in stages)


def _error(measured: Mapping[str, Any]) -> str:
    """Return how far the mean loss may be off to each side, as a share of it."""
    mean, error = known(measured.get("kl_mean")), known(measured.get("kl_error"))
    return f"± {CONFIDENT * error / mean:.0%}" if mean and error else ""


def _between(score: Mapping[str, Any]) -> str:
    low, high = known(score.get("low")), known(score.get("high"))
    return "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _seen(stage: Stage, stages: Stages, figures: Mapping[str, Any], name: str) -> Seen:
    amount = known(figures.get(name))
    low, high = number(figures.get("low")), number(figures.get("high"))
    if amount is not None and name == "kl_mean":
        error = CONFIDENT * number(figures.get("kl_error"))
        low, high = amount - error, amount + error
    text = textwrap.shorten(stage["name"].rpartition(": ")[2], LABEL, placeholder="…")
    return Seen(
        text or stage["name"][:LABEL], round(stage["bytes"]), amount, low, high, last=stage is stages[-1]
    )


def _said(stages: Stages, seen: Sequence[Seen], form: Callable[[Any], str]) -> tuple[str, ...]:
    return tuple(
        f"{stage['name']}: {size(one.bytes)}, {form(one.amount)}"
        for stage, one in zip(stages, seen, strict=True)
    )

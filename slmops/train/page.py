"""A training as one HTML page: what came of it, step by step on the way, how its loss went, what it writes.

Pure. Knows what an answer of `distill` or `finetune` says, as their report.json holds it, and not how it
came about; what the page looks like stands in `curve.html.jinja`.

Laws: the page needs nothing outside itself; what people wrote is words in it and never markup; every
step of the ledger is in its table, and in the plots of whatever was measured of any; a figure that is
missing or no number is said to be unknown and breaks nothing; the same answer gives the same page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from slmops.train.course import PART, Floats, Run, lay_out_course
from slmops.train.ledger_view import ALIKE, Stage, heads, panels, rows, score_of, smaller, tasks
from slmops.train.wording import counted, known, number, share, short, size, span, whole

DRAWINGS = {"wide": (880, 400), "narrow": (360, 360)}
"""The course for a screen or paper, and for a phone: width and height in units of a letter's 1/11."""
ACCURACY = "accuracy"
"""What stands among the parts of a classifier's loss and is none: the share of right labels."""
_WAYS = {"distill": "Distilled", "finetune": "Finetuned"}


def draw(answer: Mapping[str, Any]) -> str:
    """Return the page for the answer of a training, or for that as read back from JSON."""
    jinja = Environment(
        loader=PackageLoader("slmops.train", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stages, run = answer["ledger"]["stages"], _run(answer)
    return jinja.get_template("curve.html.jinja").render(
        model=answer["model"],
        way=_WAYS[answer["what"]],
        elder=_elder(answer),
        headline=_headline(answer, stages),
        verdict=" ".join(_verdict(answer, stages)),
        facts=dict(_facts(answer)),
        heads=heads(stages),
        rows=rows(stages),
        panels=list(panels(stages)),
        gauge={name: said for name, said in answer["ledger"]["gauge"].items() if said},
        courses={name: lay_out_course(run, width=w, height=h) for name, (w, h) in DRAWINGS.items()},
        course_said=_course_said(answer, run),
        smoothed=len(run.steps) >= PART,
        highest_rate=short(np.nanmax(run.rates, initial=0.0)),
        samples=answer["samples"],
        data=answer["data"],
        left_out={why: count for why, count in answer["left_out"].items() if count},
        settings={name: dict(_flat(answer[name] or {})) for name in ("setting", "teaching")},
        whole=whole,
    )


def _elder(answer: Mapping[str, Any]) -> str:
    """Return what the model came from."""
    return str(answer["teacher"] or answer["base"] or "a model")


def _headline(answer: Mapping[str, Any], stages: Sequence[Stage]) -> str:
    """Return in a few words what came of it."""
    said = list(_changes(answer, stages))
    before, best = _held_out(answer)
    if not said:
        return f"Held-out loss {short(before)} → {short(best)} nats"
    text = ", ".join(said)
    return text[:1].upper() + text[1:]


def _changes(answer: Mapping[str, Any], stages: Sequence[Stage]) -> Iterator[str]:
    if len(stages) <= 1:
        return
    first, last = stages[0], stages[-1]
    ratio, loss = smaller(first, last), known(last["measured"].get("kl_mean"))
    if ratio and ratio >= ALIKE:
        yield f"{short(ratio, 2)} times smaller"
    if answer["what"] == "distill" and loss is not None:
        yield f"KL {short(loss, 2)} from its teacher"
    else:
        yield from list(_task_changes(first, last))[:1]


def _task_changes(first: Stage, last: Stage) -> Iterator[str]:
    for name in tasks([last]):
        before, after = (known(score_of(stage, name).get("accuracy")) for stage in (first, last))
        if before is not None and after is not None:
            yield f"{name} {before:.1%} → {after:.1%}"


def _verdict(answer: Mapping[str, Any], stages: Sequence[Stage]) -> Iterator[str]:
    """Yield sentences: how much smaller, how near, at what cost."""
    if len(stages) > 1:
        first, last = stages[0], stages[-1]
        same = known(last["measured"].get("top1"))
        alike = f", and has the same first choice in {same:.1%} of places" if same is not None else ""
        small, large = (size(stage.get("bytes")) for stage in (last, first))
        if alike or (smaller(first, last) or 1) >= ALIKE:
            model = f"{answer['model']} ({last['name']})"
            yield f"{model} takes {small} where {_elder(answer)} takes {large}{alike}."
        changes = "; ".join(_task_changes(first, last))
        if changes:
            yield f"Share right: {changes}."
    yield (
        f"Training read {counted(answer['tokens'])} tokens in {whole(answer['steps'])} steps"
        f" and took {span(answer['seconds'])}."
    )


def _facts(answer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the figures that people ask for first, with their names."""
    before, best = _held_out(answer)
    seconds, tokens = known(answer["seconds"]), known(answer["tokens"])
    yield "held-out loss, nats", short(best)
    yield "before training", short(before)
    rights = {one["step"]: one["parts"].get(ACCURACY) for one in answer["validations"]}
    right = rights.get(answer["best"]["step"])
    if known(right) is not None:
        yield "right labels", f"{share(rights.get(0))} → {share(right)}"
    yield "best at step", f"{whole(answer['best']['step'])} of {whole(answer['steps'])}"
    yield "tokens read", counted(tokens)
    yield "time", span(seconds)
    yield "tokens/s", counted(tokens / seconds if tokens and seconds else None)
    if answer["stopped_early"]:
        yield "ended early", "it got no better"
    resumed = answer["resumed_from"]
    steps = resumed if isinstance(resumed, list) else [] if resumed is None else [resumed]
    if steps:
        yield "gone on from step", ", ".join(map(whole, steps))


def _held_out(answer: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the held-out losses of the model as it came and at its best."""
    before = (known(one["loss"]) for one in answer["validations"] if one["step"] == 0)
    return next(before, None), known(answer["best"]["loss"])


def _run(answer: Mapping[str, Any]) -> Run:
    points = answer["curve"]
    names = list(dict.fromkeys(name for point in points for name in point["parts"] if name != ACCURACY))
    return Run(
        steps=_column(point["step"] for point in points),
        tokens=_column(point["tokens"] for point in points),
        losses=_column(point["loss"] for point in points),
        rates=_column(point["rate"] for point in points),
        parts={name: _column(point["parts"].get(name) for point in points) for name in names}
        if len(names) > 1
        else {},
        validations=tuple((one["step"], number(one["loss"])) for one in answer["validations"]),
        best=answer["best"]["step"],
    )


def _column(values: Iterable[Any]) -> Floats:
    return np.fromiter(map(number, values), dtype=np.float64)


def _course_said(answer: Mapping[str, Any], run: Run) -> str:
    """Return in words what the drawing of the course shows."""
    told = run.losses[np.isfinite(run.losses)].tolist()
    before, best = _held_out(answer)
    learned = f"The training loss goes from {short(told[0])} to {short(told[-1])} nats" if told else "No step"
    step = whole(answer["best"]["step"])
    return f"{learned}; the held-out loss from {short(before)} to {short(best)} nats, best at step {step}."


def _flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values in words, of what is nested too; what is None was not asked for."""
    for name, value in said.items():
        title = f"{above}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{title}: ")
        elif isinstance(value, bool):
            yield title, "yes" if value else "no"
        elif isinstance(value, list | tuple):
            yield title, ", ".join(map(str, value))
        elif value is not None:
            yield title, f"{value:,}" if isinstance(value, int) else str(value)

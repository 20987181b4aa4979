"""Give account of a distillation: measure teacher and student, keep the ledger, write the report.

Law: what an earlier end of the same run has measured with the same gauge is not measured again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slmops.build.card import with_ledger
from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress
from slmops.build.ledger import FILE_NAME as LEDGER
from slmops.build.ledger import Ledger, Stage, parse, render
from slmops.build.subject import find_subject, name_of
from slmops.build.tasks import Task
from slmops.build.wrap import CARD, Built
from slmops.train import page
from slmops.train.distill_recipe import DistillRecipe
from slmops.train.learn import Learned
from slmops.train.measure_stage import Gauge, measure_stage
from slmops.train.model_folder import RUN
from slmops.train.open_student import ANSWERS, Student
from slmops.train.read_data import Data
from slmops.train.sample_answers import prompts_of, questions_in, sample_answers

REPORT, PAGE = "report.json", "report.html"
ASKED = 512
"""Questions at most to which the teacher writes the text that is measured on."""


@dataclass(frozen=True, eq=False)
class Taught:
    """A distillation whose training is done."""

    recipe: DistillRecipe
    tasks: tuple[Task, ...]
    teacher: Checkpoint
    student: Student
    data: Data
    learned: Learned


@dataclass
class Distilled:
    """What became of a student; its ledger grows with every artifact that is made of it."""

    recipe: DistillRecipe
    folder: Path
    teacher: Checkpoint
    gauge: Gauge
    ledger: Ledger
    learned: Learned
    answer: dict[str, Any]
    """What report.json holds."""


def account(taught: Taught, progress: Progress) -> Distilled:
    """Measure teacher, student before and student after; write the ledger and the report."""
    recipe, teacher, student, learned = taught.recipe, taught.teacher, taught.student, taught.learned
    out, gauge = Path(recipe.out), gauge_of(recipe, taught.tasks, teacher)
    made = open_checkpoint(out)
    what = f"learned from {name_of(teacher)}: {learned.tokens:,} tokens, best after step {learned.best_step}"
    known = _known(out / RUN / LEDGER, gauge)
    ledger = Ledger(gauge.said())
    for subject, name, sentence in (
        (teacher, "teacher", f"{name_of(teacher)}, as it came"),
        (student.checkpoint, student.name, student.what),
        (made, "distilled", what),
    ):
        if subject is not None:
            stage = known.get((name, subject.digest)) or measure_stage(
                subject,
                teacher,
                gauge,
                name=name,
                what=sentence,
                parameters=subject.parameters,
                progress=progress,
            )
            ledger = ledger.with_stage(stage)
            known[name, subject.digest] = stage
            _put(out / RUN / LEDGER, render(replace(ledger, stages=tuple(known.values()))))
    answer = _report(taught, ledger) | {"samples": _samples(taught, made, progress)}
    done = Distilled(recipe, out, teacher, gauge, ledger, learned, answer)
    finish(done)
    return done


def add_artifact(done: Distilled, built: Built, progress: Progress) -> None:
    """Measure an artifact that was made of the student against the teacher; its card says the whole way."""
    said = built.description
    subject = find_subject(str(built.folder))
    stage = measure_stage(
        subject,
        done.teacher,
        done.gauge,
        name=f"{said.profile}: {said.format} {said.type}",
        what=f"quantized for {said.profile}",
        parameters=said.parameters,
        progress=progress,
    )
    done.ledger = done.ledger.with_stage(stage)
    card = built.folder / CARD
    card.write_text(with_ledger(card.read_text(encoding="utf-8"), done.ledger), encoding="utf-8")


def finish(done: Distilled) -> None:
    """Write the ledger beside the student, and the report of the run."""
    done.answer = answer = done.answer | {"ledger": asdict(done.ledger)}
    _put(done.folder / LEDGER, render(done.ledger))
    _put(done.folder / RUN / REPORT, json.dumps(answer, indent=2) + "\n")
    _put(done.folder / RUN / PAGE, page.draw(answer))


def _put(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _known(file: Path, gauge: Gauge) -> dict[tuple[str, str], Stage]:
    """Return what an earlier end of this run has measured with the same gauge, by name and digest."""
    if not file.is_file():
        return {}
    ledger = parse(file.read_text(encoding="utf-8"), str(file))
    return {(one.name, one.digest): one for one in ledger.stages} if ledger.gauge == gauge.said() else {}


def _samples(taught: Taught, made: Checkpoint, progress: Progress) -> list[dict[str, str]]:
    """Return what teacher and student answer to a few prompts, before and after; of classifiers nothing."""
    recipe, teacher, student = taught.recipe, taught.teacher, taught.student
    if is_classifier(teacher.config):
        return []
    given = (recipe.validation,) if recipe.validation else recipe.data
    files = [Path(one) for one in given] or [Path(recipe.out) / RUN / ANSWERS]
    prompts = prompts_of(teacher.folder, files)
    said = {
        name: sample_answers(one, prompts, progress)
        for name, one in (("teacher", teacher), ("before", student.checkpoint), ("after", made))
        if one is not None
    }
    return [
        {"prompt": prompt.question, **{name: answers[place] for name, answers in said.items()}}
        for place, prompt in enumerate(prompts)
    ]


def _report(taught: Taught, ledger: Ledger) -> dict[str, Any]:
    recipe, learned, said = taught.recipe, taught.learned, taught.data.said
    return {
        "what": "distill",
        "model": Path(recipe.out).name,
        "teacher": name_of(taught.teacher),
        "base": taught.student.drawn.folder.name,
        "ledger": asdict(ledger),
        "curve": [asdict(point) for point in learned.curve.points],
        "validations": [asdict(one) for one in learned.curve.validations],
        "best": {"step": learned.best_step, "loss": learned.best_loss},
        "steps": learned.steps,
        "tokens": learned.tokens,
        "seconds": learned.seconds,
        "resumed_from": learned.resumed_from,
        "stopped_early": learned.stopped_early,
        "setting": recipe.training.model_dump(mode="json", exclude_none=True),
        "teaching": recipe.teaching.model_dump(mode="json"),
        "data": [
            {"file": ", ".join(said["files"]), "samples": said["samples"], "tokens": said["tokens"]},
            {"file": "held out", "samples": said["held_out_samples"], "tokens": said["held_out_tokens"]},
        ],
        "left_out": said["left_out"],
    }


def gauge_of(recipe: DistillRecipe, tasks: tuple[Task, ...], teacher: Checkpoint) -> Gauge:
    """Return with what every model of a distillation is measured.

    Where no text is given, the teacher writes what it answers to the questions of the tasks, else to those
    of the data: of a model that answers, text that begins with nothing is no text of its trade.
    """
    texts, tokens = recipe.evaluation.file, recipe.evaluation.tokens
    if texts or is_classifier(teacher.config):
        return Gauge(Path(texts) if texts else None, tokens=tokens, tasks=tasks)
    asked = tuple(question for task in tasks for question in task.questions)[:ASKED]
    given = [recipe.validation] if recipe.validation else [*recipe.data, *recipe.prompts]
    prompts = asked or questions_in([Path(one) for one in given], ASKED)
    return Gauge(prompts=prompts, tokens=tokens, tasks=tasks)

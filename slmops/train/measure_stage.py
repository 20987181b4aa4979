"""Measure a model on its way, for the ledger: how far from the teacher, how well it does its tasks, how fast.

Every step is measured with the same texts and the same tasks, against the teacher itself and not
against the step before. A folder is timed as what it would be on a device: a GGUF in F16, or for text
classifiers an ONNX graph in float32, made for that moment.

Law: figures stand only where something was measured: no divergence between models of different words.
"""

from __future__ import annotations

import math
import platform
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from slmops import digest
from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
from slmops.build.evaluate import Evaluation, evaluate, size_of
from slmops.build.evaluate_classifier import evaluate_classifier
from slmops.build.isolate import Progress, silent
from slmops.build.ledger import Score, Stage
from slmops.build.quantize_classifier import quantize_classifier
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.run_tasks import run_tasks
from slmops.build.subject import Served, find_subject, labels_of_source
from slmops.build.tasks import Result, Task
from slmops.build.time_model import TextTiming, time_model
from slmops.errors import BuildError

Subject = Checkpoint | Served
CONTEXT = 512
"""Tokens of context with which a folder is timed."""
WAYS = {"endings": "by byte", "answers": "greedily"}


@dataclass(frozen=True)
class Gauge:
    """With what the models of one ledger are measured."""

    texts: Path | None = None
    """Held-out text; without it the teacher writes its own. Classifiers: texts with labels."""
    prompts: tuple[Golden, ...] = ()
    """What the teacher's own text answers, before it begins with nothing."""
    tokens: int = 2048
    tasks: tuple[Task, ...] = ()
    speed: bool = True

    def said(self) -> dict[str, str]:
        """Return what a ledger says of it."""
        texts = f"{self.texts.name} {digest.of_file(self.texts)}" if self.texts else self._own()
        return {
            "texts": texts,
            "tokens": str(self.tokens),
            "tasks": ", ".join(f"{task.name} {_digest(task)}" for task in self.tasks),
            "machine": platform.processor() or platform.machine(),
        }

    def _own(self) -> str:
        asked = goldens.render(self.prompts)
        answers = f", answers to {len(self.prompts)} prompts first {digest.of_bytes(asked.encode())}"
        return "the teacher's own" + (answers if self.prompts else "")


def measure_stage(
    subject: Subject,
    teacher: Checkpoint,
    gauge: Gauge,
    *,
    name: str,
    what: str,
    parameters: int,
    progress: Progress = silent,
) -> Stage:
    """Return a model as a step of the ledger; raise BuildError when it cannot be run."""
    found = _evaluate(subject, teacher, gauge, progress)
    return Stage(
        name=name,
        what=what,
        parameters=parameters,
        bytes=size_of(subject),
        digest=subject.digest if isinstance(subject, Checkpoint) else digest.of_file(subject.file),
        measured=_figures(found),
        tasks={result.task: _score(result) for result in found.results},
        speed=_speed(subject, gauge, progress) if gauge.speed else {},
    )


def _evaluate(subject: Subject, teacher: Checkpoint, gauge: Gauge, progress: Progress) -> Evaluation:
    if labels_of_source(teacher):
        return evaluate_classifier(subject, teacher, texts=gauge.texts, tasks=gauge.tasks, progress=progress)
    loss = evaluate(
        subject, teacher, texts=gauge.texts, tokens=gauge.tokens, prompts=gauge.prompts, progress=progress
    )
    return replace(loss, results=run_tasks(subject, gauge.tasks, progress=progress) if gauge.tasks else [])


def _figures(found: Evaluation) -> dict[str, float]:
    if found.measured is not None:
        said = found.measured.figures()
    elif found.likelihood is not None:
        said = {"bits_per_byte": found.likelihood.bits_per_byte, "perplexity": found.likelihood.perplexity}
    else:
        said = {}
    return {name: value for name, value in said.items() if math.isfinite(value)}


def _digest(task: Task) -> str:
    return digest.of_bytes(repr(task).encode())


def _score(result: Result) -> Score:
    low, high = result.interval
    return Score(result.accuracy, low, high, len(result.right), WAYS.get(result.kind, ""))


def _speed(subject: Subject, gauge: Gauge, progress: Progress) -> dict[str, float]:
    """Return how fast it is on this machine; a folder as what it would be on a device."""
    if isinstance(subject, Served):
        return _timed(subject, gauge, progress)
    with tempfile.TemporaryDirectory(prefix="slmops-") as room:
        return _timed(_as_served(subject, Path(room), progress), gauge, progress)


def _timed(served: Served, gauge: Gauge, progress: Progress) -> dict[str, float]:
    if served.labels:
        read = evaluate_classifier(
            served, None, texts=gauge.texts, tasks=gauge.tasks, speed=True, progress=progress
        )
        each = read.timing
        return (
            {"texts_per_second": 1 / each.text_seconds, "threads": each.threads}
            if isinstance(each, TextTiming)
            else {}
        )
    found = time_model(served.file, served.shape, served.adapter, progress=progress)
    return {
        "decode_per_second": found.decode_per_second,
        "prompt_per_second": found.prompt_per_second,
        "threads": found.threads,
    }


def _as_served(checkpoint: Checkpoint, room: Path, progress: Progress) -> Served:
    """Write a folder as a device would get it, not rounded further than halves."""
    if labels_of_source(checkpoint):
        file, _ = quantize_classifier(checkpoint, ["F32"], room, progress=progress)["F32"]
        for beside in checkpoint.folder.glob("*.json"):
            shutil.copy(beside, room)
        found = find_subject(str(file))
    else:
        file = room / "model.gguf"
        quantize_gguf(checkpoint, "F16", file)
        found = find_subject(str(file))
    if not isinstance(found, Served):
        raise BuildError(f"{file} cannot be served")
    context = min(found.shape.context, CONTEXT)
    return replace(found, shape=replace(found.shape, context=context))

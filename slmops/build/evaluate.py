"""Evaluate a model: its loss against another, its likelihood of a text, its tasks, its speed.

Puts together what the other files measure, and knows what can be compared: the next-token distributions
of two models where their words are the same, or those of one are some of the other's; else bits per byte
of one text, and tasks. Text classifiers have `evaluate_classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
from slmops.build.classification import Comparison
from slmops.build.divergence import Likelihood, Measurement
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.measure import Kept, measure, read_alone
from slmops.build.phrase import Phrasing
from slmops.build.record_golden import PROMPTS
from slmops.build.run_tasks import run_tasks
from slmops.build.subject import Served, context_of_source, name_of, open_words, tokenizer_of
from slmops.build.tasks import Result, Task
from slmops.build.time_model import TextTiming, Timing, time_model
from slmops.errors import ModelError

Subject = Checkpoint | Served


@dataclass(frozen=True)
class Evaluation:
    """What was found of a model, and of another beside it; nothing stands where nothing was asked."""

    name: str
    bytes: int
    against: str | None
    against_bytes: int | None
    measured: Measurement | Comparison | None
    """Loss against the other, where both have the same words, or are classifiers."""
    likelihood: Likelihood | None
    """Of the text that was given, where the loss against another is not measured."""
    against_likelihood: Likelihood | None
    results: list[Result]
    against_results: list[Result]
    timing: Timing | TextTiming | None
    note: str | None
    """What could not be compared, and why."""


def evaluate(
    subject: Subject,
    against: Subject | None,
    *,
    texts: Path | None = None,
    tokens: int = 512,
    prompts: Sequence[Golden] = (),
    tasks: Sequence[Task] = (),
    speed: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Return what can be found of `subject`, and of `against` on the same text and items.

    Without `texts` the other writes its own, answers to `prompts` first.
    Raises BuildError when a model cannot be run, DocumentError for `texts` that hold none.
    """
    alike = against is not None and same_words(subject, against)
    kept = kept_words(subject, against) if against and not alike else None
    alike = alike or kept is not None
    measured = readings = note = None
    if against and alike:
        measured = measure(
            against,
            subject,
            texts=texts,
            tokens=tokens,
            context=context_of_source(subject),
            prompts=prompts,
            kept=kept,
            progress=progress,
        )
    elif texts:
        readings = _read(subject, against, texts, tokens, progress)
    if kept:
        note = f"Only the {len(kept)} tokens are compared that both know."
    elif against and not alike:
        note = "Their vocabularies differ: bits per byte and tasks compare them, KL and perplexity do not."
        note += "" if texts else " Give --texts for bits per byte."
    results, against_results = _run_tasks(subject, against, tasks, progress)
    return Evaluation(
        name=name_of(subject),
        bytes=size_of(subject),
        against=name_of(against) if against else None,
        against_bytes=size_of(against) if against else None,
        measured=measured,
        likelihood=readings[0] if readings else None,
        against_likelihood=readings[1] if readings else None,
        results=results,
        against_results=against_results,
        timing=time_model(subject.file, subject.shape, subject.adapter, progress=progress)
        if speed and isinstance(subject, Served)
        else None,
        note=note,
    )


def same_words(one: Subject, other: Subject) -> bool:
    """Return whether both turn plain English into the same tokens."""
    first, second = (isolate(f"the words of {name_of(some)}", _ids, silent, some) for some in (one, other))
    return first == second


def kept_words(subject: Subject, whole: Subject) -> Kept | None:
    """Return for each token of `subject` the id that `whole` has for it; None unless all are among its own.

    So it is of a model whose vocabulary was trimmed.
    """
    try:
        words, all_words = (
            Tokenizer.from_file(str(tokenizer_of(some))).get_vocab(with_added_tokens=True)
            for some in (subject, whole)
        )
    except ModelError:
        return None
    if not words.keys() < all_words.keys() or sorted(words.values()) != list(range(len(words))):
        return None
    return tuple(all_words[word] for word in sorted(words, key=words.__getitem__))


def size_of(subject: Subject) -> int:
    """Return the bytes of its weights' file, or files; an adapter is one of them."""
    if isinstance(subject, Served):
        return sum(file.stat().st_size for file in (subject.file, subject.adapter) if file)
    return sum(file.stat().st_size for file in {entry.file for entry in subject.tensors.values()})


def _ids(_progress: Progress, subject: Subject) -> list[list[int]]:
    phrasing: Phrasing = open_words(subject)
    return [phrasing.ids(Golden(expect="", prompt=text)) for text in PROMPTS]


def _read(
    subject: Subject, against: Subject | None, texts: Path, tokens: int, progress: Progress
) -> tuple[Likelihood, Likelihood | None]:
    reading = read_alone(subject, texts, tokens=tokens, other=against, progress=progress)
    if against is None:
        return reading.likelihood, None
    return reading.likelihood, read_alone(against, reading.texts, progress=progress).likelihood


def _run_tasks(
    subject: Subject, against: Subject | None, tasks: Sequence[Task], progress: Progress
) -> tuple[list[Result], list[Result]]:
    if not tasks:
        return [], []
    both = [subject, against] if against else [subject]
    context = min(map(context_of_source, both))
    results = [run_tasks(some, tasks, context=context, progress=progress) for some in both]
    return results[0], results[1] if against else []

"""Evaluate a text classifier: its loss against another, the labels it gets right, its speed.

What `evaluate` is to models that go on from a text. Texts are given: a classifier writes none itself.

Laws: both read the same texts, each with its own words; labels are matched by name, not by place; a text
that either cannot read whole is left out, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from slmops.build.checkpoint import Checkpoint
from slmops.build.classification import compare, known_right
from slmops.build.divergence import Rows
from slmops.build.evaluate import Evaluation, Subject, size_of
from slmops.build.isolate import Progress, silent
from slmops.build.labelled_lines import Line, read_lines
from slmops.build.measure_classifier import Ids, read_with, read_with_source
from slmops.build.read_labelled import Labelled, Reader, labelled
from slmops.build.subject import Served, context_of_source, labels_of_source, name_of, tokenizer_of
from slmops.build.tasks import Result, Task
from slmops.build.texts import read_text, spread
from slmops.build.time_model import time_classifier
from slmops.errors import DocumentError, ModelError, UsageError

TIMED = 32
"""Texts that are timed, at most."""


def evaluate_classifier(
    subject: Subject,
    against: Subject | None,
    *,
    texts: Path | None = None,
    tasks: Sequence[Task] = (),
    speed: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Return what can be found of `subject`, and of `against` on the same texts.

    `tasks` are of labels; in the file `texts`, some have one or none has. Raises UsageError where they leave
    nothing to measure, ModelError unless both have the same labels, DocumentError for texts that cannot be
    used, BuildError when a model cannot be run.
    """
    both = [subject, against] if against else [subject]
    labels, files = _labels(subject, against), _files(tasks, texts)
    readers = [(Reader(tokenizer_of(some)), context_of_source(some)) for some in both]
    given = [(name, labelled(lines, labels, readers[0][0])) for name, lines in files]
    read = [
        (name, [one for one in some if all(len(reader.ids(one.text)) <= most for reader, most in readers)])
        for name, some in given
    ]
    every = [one for _, some in read for one in some]
    known, timed = [one.label for one in every], subject if speed and isinstance(subject, Served) else None
    _check(files, every, min(most for _, most in readers), enough=bool(against or timed))
    ids = [[reader.ids(one.text) for one in every] for reader, _ in readers]
    rows = [_logits(some, each, labels, progress) for some, each in zip(both, ids, strict=True)]
    too_long = sum(len(some) for _, some in given) - len(every)
    return Evaluation(
        name=name_of(subject),
        bytes=size_of(subject),
        against=name_of(against) if against else None,
        against_bytes=size_of(against) if against else None,
        measured=compare(rows[1], rows[0], known) if against else None,
        likelihood=None,
        against_likelihood=None,
        results=list(_results(read, rows[0])),
        against_results=list(_results(read, rows[1])) if against else [],
        timing=time_classifier(
            timed.file,
            [ids[0][place] for place in islice(spread(len(every)), TIMED)],
            timed.shape.threads,
            progress=progress,
        )
        if timed
        else None,
        note=f"Texts left out because they are longer than can be read: {too_long}." if too_long else None,
    )


def _labels(subject: Subject, against: Subject | None) -> tuple[str, ...]:
    """Return the labels of the subject, which are those of the other."""
    own = labels_of_source(subject)
    its = labels_of_source(against) if against else own
    if set(own) == set(its):
        return own
    said = [
        f"{name_of(some)} has {len(labels)} labels"
        + (f" ({', '.join(alone[:3])}{', ...' if alone[3:] else ''} of its own)" if alone else "")
        for some, labels, others in ((subject, own, its), (against, its, own))
        if some is not None
        for alone in [[label for label in labels if label not in others]]
    ]
    raise ModelError(
        f"only classifiers with the same labels are compared: {', '.join(said)}",
        remedy="Compare with a model of these labels, or evaluate each without --against.",
    )


def _files(tasks: Sequence[Task], texts: Path | None) -> list[tuple[str, Sequence[Line]]]:
    """Return the lines of each file, after its name."""
    for task in tasks:
        if task.kind != "labels":
            raise UsageError(
                f"{task.name}: a text classifier has no {task.kind}, it gives labels to texts",
                remedy="Give it a task of texts with labels: .csv (text, label), or .jsonl with these keys.",
            )
    files: list[tuple[str, Sequence[Line]]] = [(task.name, task.lines) for task in tasks]
    if texts:
        files.append((texts.name, list(read_lines(read_text(texts), str(texts)))))
    if not files:
        raise UsageError(
            "a text classifier is measured with texts as it will read them, and none can be made up",
            remedy="Give texts with labels with --task FILE (.csv, .jsonl), or any with --texts FILE.",
        )
    return files


def _check(
    files: Sequence[tuple[str, object]], every: Sequence[Labelled], most: int, *, enough: bool
) -> None:
    """Raise unless there are texts, and labels too where texts alone are not `enough` to find anything."""
    names = ", ".join(name for name, _ in files)
    if not every:
        raise DocumentError(
            f"{names}: expected texts of at most {most} tokens, got none",
            remedy="Give texts of the kind the classifier will read; it reads them whole or not at all.",
        )
    if not enough and all(one.label is None for one in every):
        raise UsageError(
            f"{names}: no text has a label, and there is no other model to compare with: nothing to measure",
            remedy="Give texts with labels, or --against.",
        )


def _logits(subject: Subject, ids: Ids, labels: Sequence[str], progress: Progress) -> Rows:
    """Return the logits, (texts, labels), in the order of `labels`."""
    if isinstance(subject, Checkpoint):
        rows = read_with_source(subject, ids, progress)
    else:
        rows = read_with(subject.file, ids, progress)
    own = labels_of_source(subject)
    if rows.shape[1] != len(own) or not np.isfinite(rows).all():
        raise ModelError(
            f"{name_of(subject)}: expected a finite number for each of {len(own)} labels, got {rows.shape[1]}"
            + ("" if np.isfinite(rows).all() else ", not all finite"),
            remedy="Build it again from its source.",
        )
    return rows[:, [own.index(label) for label in labels]]


def _results(read: Sequence[tuple[str, Sequence[Labelled]]], rows: Rows) -> Iterator[Result]:
    """Yield which texts of each file got the label they have, of those that have one."""
    ends = np.cumsum([len(some) for _, some in read])[:-1]
    for (name, some), said in zip(read, np.split(rows, ends), strict=True):
        if right := known_right(said, [one.label for one in some]):
            yield Result(name, "texts", 1 / rows.shape[1], right, None)

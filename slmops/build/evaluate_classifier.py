"""Evaluate a text classifier: its loss against another, the labels it gets right, its speed.

What `evaluate` is to models that go on from a text. Texts are given; a classifier makes up none.

Laws: both read the same texts, each with its own words; labels are matched by name, not by place; a text
that either cannot read whole is left out, and said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from slmops.build.texts import read_text
from slmops.build.time_model import time_classifier
from slmops.errors import DocumentError, ModelError, UsageError


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

    `tasks` are of labels; of `texts` some, or none, have one. Raises UsageError without either, ModelError
    unless both have the same labels, DocumentError for texts that cannot be used, BuildError when a model
    cannot be run.
    """
    both = [subject, against] if against else [subject]
    labels = _labels(both)
    files = _files(tasks, texts)
    readers = [Reader(tokenizer_of(some)) for some in both]
    read = {name: labelled(lines, labels, readers[0]) for name, lines in files.items()}
    every = list({each.text: each for texts_of in read.values() for each in texts_of}.values())
    ids = [[reader.ids(each.text) for each in every] for reader in readers]
    fit = [
        all(len(row[place]) <= context_of_source(some) for some, row in zip(both, ids, strict=True))
        for place in range(len(every))
    ]
    if not any(fit):
        raise DocumentError(
            f"{', '.join(files)}: expected texts of at most {min(map(context_of_source, both))} tokens, got "
            f"{len(every)} of more",
            remedy="Give texts of the kind the classifier will read; it reads a text whole or not at all.",
        )
    kept = [[row for row, fits in zip(some, fit, strict=True) if fits] for some in ids]
    rows = [_logits(some, labels, row, progress) for some, row in zip(both, kept, strict=True)]
    places = {each.text: at for at, each in enumerate(each for each, fits in zip(every, fit, strict=True) if fits)}
    results = [
        [found for name, texts_of in read.items() if (found := _result(name, texts_of, places, some, labels))]
        for some in rows
    ]
    known = [each.label for each, fits in zip(every, fit, strict=True) if fits]
    return Evaluation()

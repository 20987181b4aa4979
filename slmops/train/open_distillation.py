"""Open what a student learns from its teacher: hold their words together, record the teacher or load it.

Laws: nothing is recorded or loaded before teacher and student are known to speak the same words; a
teacher that is recorded is not in memory when the training begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import context_of, is_classifier, labels_of
from slmops.build.isolate import Progress, silent
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.sketch import Sketch
from slmops.build.texts import Text
from slmops.errors import ModelError
from slmops.train.agreement import Agreement, Words, agree, agree_labels
from slmops.train.batch import lay
from slmops.train.distillation import Distillation
from slmops.train.hidden_states import HiddenStates
from slmops.train.objective import CrossEntropy
from slmops.train.open_trainable import load_weights
from slmops.train.record_teacher import Recording, record_teacher
from slmops.train.samples import Samples
from slmops.train.teacher import Teacher, layers_and_width
from slmops.train.teacher_cache import TeacherCache
from slmops.train.teaching import Teaching

FITTED = 4096
"""Tokens on whose hidden states the first maps are fitted."""


def open_distillation(
    teacher: Checkpoint,
    student: Sketch,
    model: Any,
    data: tuple[Samples, Samples],
    *,
    texts: Iterable[Text],
    teaching: Teaching,
    cache: Path,
    process: tuple[int, int] = (0, 1),
    progress: Progress = silent,
) -> Distillation | CrossEntropy:
    """Return the objective that `model`, the student of the folder `student`, learns by.

    It needs no teacher, and none is opened, where `teaching` gives it no say.

    `data` is what trains and what validates, in the student's ids; `texts` is what both models must cut
    alike (for classifiers too). `cache` is a folder that may be shared by many runs: what was recorded
    for the same teacher, samples and settings is taken from it. `process` is (number, of how many), of
    processes that record at a time.

    Raises ModelError when teacher and student do not speak the same words or labels, BuildError when
    the disk does not take the recording.
    """
    if not teaching.asked:
        return CrossEntropy()
    agreement = _agreement(teacher, student, model, data, texts)
    _check_lengths(teacher, data)
    if teaching.recorded:
        width = agreement.width(_logits(teacher))
        asked = Recording(teacher, agreement, width, teaching.top_k, teaching.temperature, process)
        return Distillation(_recorded(asked, data, cache, progress), teaching, student=agreement.student)
    at_hand = Teacher(load_weights(teacher, progress), agreement)
    hidden = _hidden(at_hand, model, data[0]) if teaching.hidden else None
    return Distillation(
        at_hand, teaching, student=agreement.student, hidden=hidden, stop_ids=student.stop_ids
    )


def words_of(model: Sketch, rows: int) -> Words:
    """Return how the model of a folder, with `rows` rows of logits, writes texts."""
    said = json.loads(model.words().read_text(encoding="utf-8"))
    phrasing = CheckpointPhrasing(model)
    begin, end = model.bos_id, next(iter(model.stop_ids), None)
    # Where a tokenizer.json cuts and pads, a phrasing does not.
    whole = {**said, "truncation": None, "padding": None}
    rule = whole, begin, model.add_bos, model.chat_template, model.special_tokens
    ids = Tokenizer.from_file(str(model.words())).get_vocab(with_added_tokens=True)
    return Words(str(model.folder), ids, rows, begin, end, phrasing.written, rule)


def _agreement(
    teacher: Sketch, student: Sketch, model: Any, data: tuple[Samples, Samples], texts: Iterable[Text]
) -> Agreement:
    labelled = is_classifier(teacher.config)
    if labelled != is_classifier(student.config):
        one, other = ("labels texts" if yes else "writes texts" for yes in (labelled, not labelled))
        raise ModelError(
            f"{teacher.folder} {one}, {student.folder} {other}",
            remedy="Take a student of the teacher's kind; slmops prune makes one.",
        )
    used = np.unique(np.concatenate([samples.ids for samples in data])).tolist()
    own = words_of(student, int(model.config.vocab_size))
    found = agree(own, words_of(teacher, int(teacher.config["vocab_size"])), used, texts)
    if not labelled:
        return found
    return agree_labels(found, labels_of(student.config), labels_of(teacher.config))


def _check_lengths(teacher: Sketch, data: tuple[Samples, Samples]) -> None:
    """Raise ModelError for samples that a teacher cannot read whole; some would guess on, unheard."""
    said = teacher.config
    most = context_of(said) if is_classifier(said) else int(said.get("max_position_embeddings") or 0)
    longest = max(int(samples.lengths.max(initial=0)) for samples in data)
    if most and longest > most:
        raise ModelError(
            f"the data has samples of up to {longest} tokens, {teacher.folder} reads at most {most}",
            remedy=f"Cut them shorter: --length {most}.",
        )


def _logits(teacher: Sketch) -> int:
    """Return how many logits a teacher gives at a time."""
    said = teacher.config
    return len(labels_of(said)) if is_classifier(said) else int(said["vocab_size"])


def _recorded(
    asked: Recording, data: tuple[Samples, Samples], folder: Path, progress: Progress
) -> dict[str, TeacherCache]:
    said_by = (asked.teacher.digest, asked.agreement.digest, f"{asked.k} {asked.temperature}")
    caches = [TeacherCache(folder, samples, said_by) for samples in data]
    record_teacher(asked, caches, progress)
    return {cache.samples.digest: cache for cache in caches}


def _hidden(teacher: Teacher, model: Any, samples: Samples) -> HiddenStates:
    """Return the maps between hidden states, fitted to the first samples."""
    found = HiddenStates(layers_and_width(model), teacher.layers_and_width)
    count = int(np.searchsorted(samples.starts, FITTED))
    batch = lay(samples, range(min(max(count, 1), len(samples))), padding=0)
    with torch.no_grad():
        own = model(input_ids=batch.ids, attention_mask=batch.mask.long(), output_hidden_states=True)
    found.fit(own.hidden_states, teacher.logits_and_states(batch)[1], batch)
    return found

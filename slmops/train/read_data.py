"""Read what a model is to learn, and what it is to be validated with, in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.build.classifier import context_of as context_of_classifier
from slmops.build.classifier import is_classifier, labels_of
from slmops.build.family import FAMILIES, context_of
from slmops.build.phrase import CheckpointPhrasing
from slmops.build.sketch import Sketch
from slmops.train.read_samples import Read, read_labelled_samples, read_samples
from slmops.train.samples import Samples
from slmops.train.split import split, without

ENDLESS = 1 << 20
"""Tokens of context of a model that names no bound."""


@dataclass(frozen=True, eq=False)
class Data:
    """What trains, what validates, and what became of the files."""

    training: Samples
    validation: Samples
    said: dict[str, Any]
    """Of people: samples and tokens on both sides, files, and what was left out."""


def read_data(
    files: Sequence[Path],
    validation: Path | None,
    student: Sketch,
    length: int,
    *,
    throughout: bool = False,
) -> Data:
    """Return what `files` teach `student`, in samples of at most `length` tokens, or as many as it reads.

    Without a file for `validation` a part of the samples is held out. With `throughout` what is asked is
    learned as well as what is answered. Raises DocumentError, naming file
    and line, for what cannot be read or learned.
    """
    length = min(length, _context(student))
    whole = _read(files, student, length)
    if validation is None:
        learned, held = split(whole.samples)
    else:
        held = _read([validation], student, length).samples
        learned = without(whole.samples, held)
    if throughout and not is_classifier(student.config):
        learned, held = learned.throughout(), held.throughout()
    return Data(learned, held, _said(files, whole, learned, held))


def padding_of(student: Sketch) -> int:
    """Return the id with which batches are filled up; masked, so any will do."""
    said = student.config.get("pad_token_id")
    return said if isinstance(said, int) and said >= 0 else 0


def _context(student: Sketch) -> int:
    """Return how many tokens the model can read at once."""
    if is_classifier(student.config):
        return context_of_classifier(student.config)
    if student.architecture in FAMILIES:
        return context_of(student.architecture, student.config)
    return int(student.config.get("max_position_embeddings") or ENDLESS)


def _read(files: Sequence[Path], student: Sketch, length: int) -> Read:
    if is_classifier(student.config):
        return read_labelled_samples(files, student.words(), labels_of(student.config), length=length)
    end = student.stop_ids[0] if student.stop_ids else None
    return read_samples(files, CheckpointPhrasing(student), length=length, end=end)


def _said(files: Sequence[Path], whole: Read, learned: Samples, held: Samples) -> dict[str, Any]:
    return {
        "files": [file.name for file in files],
        "samples": len(learned),
        "tokens": len(learned.ids),
        "learned_tokens": learned.learned_tokens,
        "held_out_samples": len(held),
        "held_out_tokens": len(held.ids),
        "left_out": {"too long": whole.too_long, "unwritable": whole.unwritable},
    }

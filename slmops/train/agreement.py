"""Whether a teacher and a student speak the same words, and which is which.

Pure: two vocabularies and the texts of the data in, a map between their ids out. The simple case is
one tokenizer; the other is a student that kept a part of its teacher's vocabulary: the teacher then
speaks of that part alone. Rows of logits that stand for no token (a vocabulary padded to a round
number) are compared with nothing.

Laws: what is mapped has the same string on both sides; every id that the data uses is mapped; every
text is cut alike by both; else there is no map but a ModelError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmops import digest
from slmops.errors import ModelError

Text = str | list[dict[str, str]]
Ids = NDArray[np.int64]
SHOWN = 5
"""Tokens that are shown from where two segmentations part."""
PASSAGE = 60
"""Characters of a text that are shown."""
REMEDY = (
    "Let the teacher write answers and learn from those (slmops write-answers), or take a student with the "
    "teacher's tokenizer.json, which slmops prune makes (with more --vocabulary-size, if it dropped these)."
)


@dataclass(frozen=True, eq=False)
class Words:
    """How one model writes texts as ids."""

    where: str
    """The model, for people."""
    ids: Mapping[str, int]
    """The id of every token by its string, added tokens too."""
    rows: int
    """Logits, or rows of the embedding: tokens, and what it is padded with."""
    begin: int | None
    end: int | None
    cut: Callable[[Text], Sequence[int]]
    """Cuts a text into ids, as in training."""
    rule: Any = None
    """All that `cut` depends on; models of equal rules cut alike. None: not known."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """What of a student is what of its teacher. None stands for: all, and by the same number."""

    reads: Ids | None = None
    """The teacher's id for each id of the student, -1 where there is none: [rows of the student]."""
    student: Ids | None = None
    """Which of the student's logits are compared: [outcomes]."""
    teacher: Ids | None = None
    """The teacher's logit for each of them: [outcomes]."""

    def width(self, logits: int) -> int:
        """Return how many outcomes are compared, of a teacher that gives so many logits."""
        return logits if self.teacher is None else len(self.teacher)

    @property
    def digest(self) -> str:
        """Return one sha256 of the map."""
        arrays = (self.reads, self.student, self.teacher)
        return digest.of_pieces(b"-" if each is None else each.tobytes() + b"." for each in arrays)


def agree(student: Words, teacher: Words, used: Iterable[int], texts: Iterable[Text]) -> Agreement:
    """Return the map between two vocabularies; raise ModelError unless they agree on the data.

    `used` are the student's ids in the data, `texts` what they were cut from.
    """
    reads = np.full(student.rows, -1, np.int64)
    for token, id_ in student.ids.items():
        if id_ < student.rows and teacher.ids.get(token, teacher.rows) < teacher.rows:
            reads[id_] = teacher.ids[token]
    if student.rule is None or student.rule != teacher.rule:
        _check_cuts(student, teacher, reads, texts)
    _check_used(student, teacher, reads, used)
    _check_ends(student, teacher, reads)
    same = (reads < 0) | (reads == np.arange(len(reads)))
    if student.rows == teacher.rows and len(student.ids) == len(teacher.ids) and same.all():
        return Agreement()
    known = np.flatnonzero(reads >= 0)
    return Agreement(reads, known, reads[known])


def agree_labels(found: Agreement, student: Sequence[str], teacher: Sequence[str]) -> Agreement:
    """Return the same agreement for classifiers, whose logits are labels; they are mapped by name."""
    if sorted(student) != sorted(teacher):
        only = sorted(set(student) ^ set(teacher))
        raise ModelError(
            f"teacher and student do not have the same labels: {', '.join(only[:SHOWN])}"
            f"{', ...' if len(only) > SHOWN else ''} on one side alone",
            remedy="Give the student's config.json the id2label of its teacher.",
        )
    if list(student) == list(teacher):
        return replace(found, student=None, teacher=None)
    places = np.array([teacher.index(label) for label in student], np.int64)
    return replace(found, student=np.arange(len(places)), teacher=places)


def _check_used(student: Words, teacher: Words, reads: Ids, used: Iterable[int]) -> None:
    named = {id_: token for token, id_ in student.ids.items()}
    for id_ in used:
        if not 0 <= id_ < len(reads) or reads[id_] < 0:
            raise ModelError(
                f"the data uses the token {named.get(id_, id_)!r} (id {id_}) of {student.where}, "
                f"which {teacher.where} does not have",
                remedy=REMEDY,
            )


def _check_ends(student: Words, teacher: Words, reads: Ids) -> None:
    pairs = (("begins", student.begin, teacher.begin), ("ends", student.end, teacher.end))
    for does, own, other in pairs:
        mapped = None if own is None else int(reads[own]) if own < len(reads) else -1
        if mapped != other:
            told = [_token(words, id_) for words, id_ in ((student, own), (teacher, other))]
            raise ModelError(
                f"{student.where} {does} a text with {told[0]}, {teacher.where} with {told[1]}",
                remedy="Let tokenizer_config.json and config.json of both name the same bos_token and "
                "eos_token, or: " + REMEDY,
            )


def _check_cuts(student: Words, teacher: Words, reads: Ids, texts: Iterable[Text]) -> None:
    for text in texts:
        own, other = list(student.cut(text)), list(teacher.cut(text))
        if [int(reads[id_]) for id_ in own] != other:
            raise _difference(student, teacher, reads, text, (own, other))


def _difference(
    student: Words, teacher: Words, reads: Ids, text: Text, ids: tuple[list[int], list[int]]
) -> ModelError:
    own, other = ids
    pairs = zip(own, other, strict=False)
    at = next((i for i, (one, two) in enumerate(pairs) if reads[one] != two), min(len(own), len(other)))
    told = [
        " ".join(_token(words, id_) for id_ in cut[at : at + SHOWN]) or "(its end)"
        for words, cut in ((student, own), (teacher, other))
    ]
    said = text if isinstance(text, str) else " / ".join(turn.get("content", "") for turn in text)
    return ModelError(
        "teacher and student do not cut the data's texts alike, so their logits speak of different things:\n"
        f"  text      {said[:PASSAGE]!r}{'...' if len(said) > PASSAGE else ''}, from token {at + 1} on\n"
        f"  student   {told[0]}   ({student.where})\n"
        f"  teacher   {told[1]}   ({teacher.where})",
        remedy=REMEDY,
    )


def _token(words: Words, id_: int | None) -> str:
    if id_ is None:
        return "nothing"
    return repr(next((token for token, number in words.ids.items() if number == id_), f"id {id_}"))

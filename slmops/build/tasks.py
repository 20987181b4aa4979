"""Tasks: questions with right answers, and how well a model did on them.

Pure: a file's text in, items out; scores in, results out. Four kinds of file, told by the keys of a line:

    {"context": ..., "choices": [...], "answer": 2}       which ending goes on (also question, endings, label)
    {"sentence_good": ..., "sentence_bad": ...}           which sentence is likelier
    {"text": ..., "label": ...}, or .csv with a header    which label, of all those in the file
    {"prompt": ..., "expect": ...}                        what is answered, greedily (a golden prompt)

An ending, a sentence or a label is scored by the log-likelihood of its tokens, as a sum and for each
byte. What counts is the sum where the whole is asked for, of sentences and labels. Of endings it is
each byte: they differ in length, and the sum then finds the shortest likeliest whatever it says.

Laws: a line that is no such item is a DocumentError that names file and line; what is not a number
is never right; an interval holds its accuracy and lies in 0..1; a result against itself has no flips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.divergence import CONFIDENT
from slmops.build.json_lines import objects
from slmops.build.labelled_lines import EXAMPLE, Line, line_of, read_lines
from slmops.errors import DocumentError

EXAMPLES = (
    '{"context": "...", "choices": ["...", "..."], "answer": 0}, {"sentence_good": "...", '
    '"sentence_bad": "..."}, {"text": "...", "label": "..."} or {"prompt": "...", "expect": "..."}'
)
FEWEST = 2
"""Choices that are a choice."""

Kind = Literal["endings", "sentences", "labels", "answers", "texts"]
"""A file has items of one of the first four; read by a classifier, labels are its texts."""


@dataclass(frozen=True)
class Choice:
    """A context, what may follow it, and which of these does."""

    context: str
    choices: tuple[str, ...]
    answer: int

    @property
    def wholes(self) -> list[str]:
        """Return the context with each choice after it, a space between unless there is white space."""
        between = " " if self.context and not self.context[-1].isspace() else ""
        return [self.context + ("" if text[:1].isspace() else between) + text for text in self.choices]


@dataclass(frozen=True)
class Task:
    """Items of one kind: choices, or golden prompts for answers."""

    name: str
    kind: Kind
    choices: tuple[Choice, ...] = ()
    questions: tuple[Golden, ...] = ()
    lines: tuple[Line, ...] = ()
    """Of a task of labels: the texts as they stand, which is how a classifier reads them."""

    @property
    def chance(self) -> float:
        """Return the share of items that blind guessing gets right."""
        return sum(1 / len(item.choices) for item in self.choices) / max(len(self.choices), 1)


@dataclass(frozen=True)
class Result:
    """How a model did on a task."""

    task: str
    kind: Kind
    chance: float
    right: tuple[bool, ...]
    """Item by item, by the way that counts."""
    right_otherwise: tuple[bool, ...] | None
    """By the other way: the sum for endings, each byte for sentences and labels; else none."""

    @property
    def accuracy(self) -> float:
        """Return the share of items that are right."""
        return sum(self.right) / len(self.right)

    @property
    def accuracy_otherwise(self) -> float | None:
        """Return the share that is right by the other way."""
        return None if self.right_otherwise is None else sum(self.right_otherwise) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the accuracy."""
        return wilson(sum(self.right), len(self.right))


def read_task(text: str, name: str) -> Task:
    """Return the task that the text of the file called `name` holds; raise DocumentError for a bad line."""
    if name.lower().endswith(".csv"):
        return _labelled(name, tuple(read_lines(text, name)))
    lines = list(objects(text, name, EXAMPLES))
    if not lines:
        raise DocumentError(f"{name} holds no items", remedy=f"One JSON object a line: {EXAMPLES}")
    first = lines[0][1]
    if "sentence_good" in first:
        return Task(name, "sentences", choices=tuple(_sentences(said, where) for where, said in lines))
    if first.keys() & {"choices", "endings"}:
        return Task(name, "endings", choices=tuple(_endings(said, where) for where, said in lines))
    if "text" in first:
        return _labelled(name, tuple(line_of(said, where) for where, said in lines))
    if "expect" in first:
        return Task(name, "answers", questions=tuple(goldens.questions(goldens.read(text, name))))
    raise _fault(lines[0][0], f"expected an item of a task, got keys {sorted(first)}")


def decide(task: Task, number: int, scores: Sequence[float]) -> tuple[bool, bool]:
    """Return whether item `number` is right: by the way that counts, and by the other.

    `scores` are the log-likelihoods of the tokens of each choice, in nats.
    """
    item = task.choices[number]
    lengths = [len(text.encode()) for text in item.choices]
    by_sum = _best(scores) == item.answer
    by_byte = _best([score / length for score, length in zip(scores, lengths, strict=True)]) == item.answer
    return (by_byte, by_sum) if task.kind == "endings" else (by_sum, by_byte)


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `right` in `count`."""
    share, weight = right / count, CONFIDENT**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half = CONFIDENT * math.sqrt((share * (1 - share) + weight / 4) / count) / (1 + weight)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def flips(before: Result, now: Result) -> tuple[int, int]:
    """Return how many items were right before and are wrong now, and the reverse."""
    pairs = list(zip(before.right, now.right, strict=True))
    return sum(was and not is_ for was, is_ in pairs), sum(is_ and not was for was, is_ in pairs)


def _best(scores: Sequence[float]) -> int | None:
    if not all(map(math.isfinite, scores)):
        return None
    return max(range(len(scores)), key=scores.__getitem__)


def _sentences(said: dict[str, Any], where: str) -> Choice:
    both = tuple(_text(said, where, key) for key in ("sentence_good", "sentence_bad"))
    return Choice("", both, 0)


def _endings(said: dict[str, Any], where: str) -> Choice:
    context = _text(said, where, "context" if "context" in said else "question")
    choices = said.get("choices", said.get("endings"))
    if (
        not isinstance(choices, list)
        or len(choices) < FEWEST
        or not all(isinstance(text, str) and text.strip() for text in choices)
    ):
        raise _fault(where, f"choices: expected at least two texts, got {choices!r:.80}")
    answer = said.get("answer", said.get("label"))
    number = int(answer) if isinstance(answer, str) and answer.isdecimal() else answer
    if type(number) is not int or not 0 <= number < len(choices):
        raise _fault(where, f"answer: expected which of the choices, 0 to {len(choices) - 1}, got {answer!r}")
    return Choice(context, tuple(choices), number)


def _labelled(name: str, lines: tuple[Line, ...]) -> Task:
    """Return the task of telling each text's label, all labels written as words."""
    if bare := next((line for line in lines if line.label is None), None):
        raise DocumentError(
            f"{bare.where}: expected a label with the text, got none",
            remedy=f"Write {EXAMPLE} or a .csv with text and label; texts without labels go with --texts.",
        )
    items = [(line.text, line.label) for line in lines if line.label is not None]
    labels = sorted({label for _, label in items})
    if len(labels) < FEWEST:
        raise DocumentError(f"{name} has {len(labels)} labels: that is no choice", remedy="Give two or more.")
    words = tuple(label.replace("_", " ") for label in labels)
    places = {label: place for place, label in enumerate(labels)}
    choices = tuple(Choice(f"{text}\nLabel:", words, places[label]) for text, label in items)
    return Task(name, "labels", choices, lines=lines)


def _text(said: dict[str, Any], where: str, key: str) -> str:
    text = said.get(key)
    if not isinstance(text, str) or not text.strip():
        raise _fault(where, f"{key}: expected text, got {text!r}")
    return text


def _fault(where: str, what: str) -> DocumentError:
    return DocumentError(f"{where}: {what}", remedy=f"Write {EXAMPLES}")

"""Read the files that a model learns from, and turn them into its token ids.

What the files hold, `lessons` and, for classifiers, `labelled_lines` say.

Laws: a text is cut into windows, each of which begins as a text that is served begins, and its last one
ends with the end token; of a prompt and its answer, and of a conversation, only what the model is to
say is learned, with the end token after it, unless the line says that it was cut; none is longer than
`length`, and none is cut here; what the vocabulary cannot write is left out, and what is left out is
counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmops.artifact.golden import Golden
from slmops.build.labelled_lines import EXAMPLE, Line, read_lines
from slmops.build.phrase import Phrasing
from slmops.build.read_labelled import Reader, labelled
from slmops.build.texts import CHARACTERS_PER_TOKEN, LEAST, passages, read_text, windows
from slmops.errors import DocumentError
from slmops.train.lessons import ASSISTANT, EXAMPLES, Exchange, Lesson, Talk, Text, lessons
from slmops.train.samples import Samples, collect

Sample = tuple[list[int], list[bool]]
"""Token ids, and which of them are learned."""


@dataclass(frozen=True, eq=False)
class Read:
    """What was read."""

    samples: Samples
    too_long: int = 0
    """Conversations, answers or labelled texts left out because they are longer than `length`."""
    unwritable: int = 0
    """Those left out because the vocabulary has no token for something in them."""


def read_samples(files: Sequence[Path], phrasing: Phrasing, *, length: int, end: int | None) -> Read:
    """Return what `files` teach, in samples of at most `length` tokens.

    `end` is the token after which the model is to stop: the first of `Checkpoint.stop_ids`. Raises
    DocumentError, naming file and line, for what cannot be read, and when there is nothing to learn.
    """
    writer = _Writer(phrasing, length, end)
    written = [sample for file in files for lesson in _lessons(file) for sample in writer.samples(lesson)]
    writable = [sample for sample in written if phrasing.unknown_id not in sample[0]]
    kept = [sample for sample in writable if len(sample[0]) <= length]
    unwritable, too_long = len(written) - len(writable), len(writable) - len(kept)
    if not kept:
        raise _nothing(files, length, unwritable, too_long)
    return Read(collect(kept), too_long, unwritable)


def read_labelled_samples(files: Sequence[Path], words: Path, labels: Sequence[str], *, length: int) -> Read:
    """Return the labelled texts of `files`, each once, for a classifier with `labels`.

    `words` is its tokenizer.json; longer texts than `length` tokens are left out. Raises DocumentError,
    naming file and line, for what cannot be read, for a text without a label or with one unknown, and when
    there is nothing to learn.
    """
    lines = itertools.chain.from_iterable(_labelled(file) for file in files)
    found = labelled(lines, labels, Reader(words))
    kept = [each for each in found if len(each.ids) <= length]
    if not kept:
        raise _nothing(files, length, 0, len(found))
    texts = ((each.ids, [False] * len(each.ids)) for each in kept)
    return Read(collect(texts, [int(each.label or 0) for each in kept]), len(found) - len(kept))


def _lessons(file: Path) -> Iterator[Lesson]:
    return lessons(read_text(file), str(file))


def _labelled(file: Path) -> Iterable[Line]:
    for line in read_lines(read_text(file), str(file)):
        if line.label is None:
            raise DocumentError(
                f"{line.where}: expected a label to learn, got none", remedy=f"Write {EXAMPLE}"
            )
        yield line


def _nothing(files: Sequence[Path], length: int, unwritable: int, too_long: int) -> DocumentError:
    return DocumentError(
        f"{', '.join(map(str, files))}: nothing to learn ({unwritable} left out for characters the "
        f"vocabulary has not, {too_long} longer than {length} tokens)",
        remedy="Give text in the language of the model, or more --length."
        if unwritable or too_long
        else f"Give a .txt file, or .jsonl with an object a line: {EXAMPLES}",
    )


class _Writer:
    """Lessons as a model reads them in training."""

    def __init__(self, phrasing: Phrasing, length: int, end: int | None) -> None:
        self._phrasing = phrasing
        self._length = length
        self._end = [] if end is None else [end]
        self._begin = phrasing.ids(Golden(expect="", prompt=""))

    def samples(self, lesson: Lesson) -> Iterator[Sample]:
        """Yield the samples of a lesson; only a text has more than one."""
        if isinstance(lesson, Text):
            yield from ((ids, [True] * len(ids)) for ids in self._windows(lesson.text) if len(ids) >= LEAST)
        elif isinstance(lesson, Exchange):
            yield self._exchange(lesson)
        else:
            yield self._talk(lesson)

    def _windows(self, text: str) -> Iterator[list[int]]:
        parts = [str(part) for part in passages(text, self._length * CHARACTERS_PER_TOKEN)]
        for number, part in enumerate(parts, 1):
            ids = self._phrasing.written(part)
            yield from windows(self._ended(ids) if number == len(parts) else ids, self._begin, self._length)

    def _exchange(self, lesson: Exchange) -> Sample:
        whole = self._phrasing.written(lesson.prompt + lesson.answer)
        ids = whole if lesson.cut else self._ended(whole)
        # A token in which prompt and answer have grown together is the model's to say.
        said = _common(ids, self._phrasing.written(lesson.prompt))
        return ids, [place >= said for place in range(len(ids))]

    def _talk(self, lesson: Talk) -> Sample:
        ids = self._phrasing.written(lesson.messages)
        learned = np.zeros(len(ids), bool)
        for turn, message in enumerate(lesson.messages):
            if message["role"] == ASSISTANT:
                learned[self._turn(lesson, turn, ids)] = True
        if lesson.cut:
            # That it ends where it was cut is nothing to learn.
            last = int(np.flatnonzero(learned)[-1])
            until = last if ids[last] in self._phrasing.stop_ids else last + 1
            return ids[:until], list(learned[:until])
        # A template that closes no turn leaves that to the model.
        if learned[-1] and ids[-1] not in self._phrasing.stop_ids:
            return ids + self._end, [*learned, *(True for _ in self._end)]
        return ids, list(learned)

    def _turn(self, lesson: Talk, turn: int, ids: Sequence[int]) -> slice:
        """Return where in `ids` the assistant's message `turn` lies, with its end token if it has one."""
        opened = self._phrasing.ids(Golden(expect="", messages=list(lesson.messages[:turn])))
        closed = self._phrasing.written(lesson.messages[: turn + 1])
        start = _common(ids, opened)
        # The last token of what stands before may grow together with the first word after it.
        if start < len(opened) - 1 or _common(ids, closed) < len(closed) - 1:
            raise _anew(lesson.where)
        ends = np.flatnonzero(np.isin(ids[start : len(closed)], list(self._phrasing.stop_ids)))
        return slice(start, start + int(ends[-1]) + 1 if len(ends) else len(closed))

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self._end else [*ids, *self._end]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _anew(where: str) -> DocumentError:
    return DocumentError(
        f"{where}: the model's chat template writes earlier turns of this conversation differently once "
        "more has been said, so that no one text shows what the model is to answer",
        remedy="Give conversations with one answer each: everything up to it, and the answer last.",
    )

"""Put tasks to a model, in a process of its own, and see what it gets right.

Knows the model by its logits alone; what an item is and when it is right, `tasks` says.

Laws: the same model and tasks give the same results; a context that is too long for the model loses
its beginning, never its end; what all choices share is read once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from slmops.artifact.golden import Golden
from slmops.artifact.judge import judge
from slmops.build.divergence import log_probabilities
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_model import Model, Shape
from slmops.build.phrase import Phrasing
from slmops.build.subject import Source, context_of_source, name_of, open_weights, open_words
from slmops.build.tasks import Choice, Result, Task, decide
from slmops.errors import BuildError

MOST_CONTEXT = 2048
"""Tokens of an item at most, whatever more the model bears."""
MICRO_BATCH = 64
"""Tokens of a context that are read at once."""


def run_tasks(
    source: Source, tasks: Sequence[Task], *, context: int | None = None, progress: Progress = silent
) -> list[Result]:
    """Return how the model did on each of `tasks`.

    `context` bounds the tokens of an item: of two models that are compared, what both bear. Raises
    BuildError when the model cannot be run, or an item's choices alone are too long for it.
    """
    room = min(context or MOST_CONTEXT, MOST_CONTEXT, context_of_source(source))
    return isolate(f"running {name_of(source)}", _run, progress, source, list(tasks), room)


def _run(progress: Progress, source: Source, tasks: list[Task], context: int) -> list[Result]:
    model = open_weights(source, Shape(context, micro_batch=MICRO_BATCH), progress)
    reader = Reader(model, open_words(source), context)
    results = []
    for task in tasks:
        counted, otherwise = list[bool](), list[bool]()
        items = len(task.choices) + len(task.questions)
        for number, item in enumerate(task.choices):
            right, other = decide(task, number, reader.scores(item, f"{task.name}, item {number + 1}"))
            counted.append(right)
            otherwise.append(other)
            progress(f"{name_of(source)}: {task.name}", (number + 1) / items)
        for number, question in enumerate(task.questions):
            counted.append(judge(question, reader.answer(question)))
            progress(f"{name_of(source)}: {task.name}", (number + 1) / items)
        results.append(Result(task.name, task.kind, task.chance, tuple(counted), tuple(otherwise) or None))
    return results


class Reader:
    """A model and its words, with so much room."""

    def __init__(self, model: Model, phrasing: Phrasing, context: int) -> None:
        self._model, self._phrasing, self._context = model, phrasing, context
        self._opening = [] if phrasing.written("") else phrasing.begin_ids
        """What stands before a text, of a model that puts nothing there: its first token is foretold too."""

    def scores(self, item: Choice, where: str) -> list[float]:
        """Return the log-likelihood, in nats, of the tokens of each choice after the context."""
        stem, *wholes = (
            [*self._opening, *self._phrasing.written(text)] for text in (item.context, *item.wholes)
        )
        alike = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(stem, *wholes, strict=False))
        shared = min(sum(1 for _ in alike), *(len(whole) - 1 for whole in wholes))
        endings = [whole[shared:] for whole in wholes]
        room = self._context - max(map(len, endings))
        if shared < 1 or room < 1:
            raise BuildError(
                f"{where}: its choices are too long for {self._context} tokens of context"
                if shared
                else f"{where}: the model names no token to begin a text with",
                remedy="Shorten the choices and give each item a context, or leave the item out.",
            )
        return self._likelihoods(_shortened(wholes[0][:shared], room), endings)

    def answer(self, question: Golden) -> str:
        """Return what the model answers, always the likeliest token next, as far as there is room."""
        asked = self._phrasing.ids(question) or self._opening
        ids = _shortened(asked, max(self._context - question.max_tokens, self._context // 2))
        most, said = min(question.max_tokens, self._context - len(ids)), list[int]()
        self._model.restart()
        while len(said) < most:
            best = int(self._model.read(ids)[-1].argmax())
            if best in self._phrasing.stop_ids:
                break
            said.append(best)
            ids = [best]
        return self._phrasing.text(said)

    def _likelihoods(self, stem: list[int], endings: list[list[int]]) -> list[float]:
        found = list[float]()
        self._model.restart()
        after_stem = self._model.read(stem)
        for ending in endings:
            if found and self._model.rewind(len(stem)) < len(stem):
                self._model.restart()
                self._model.read(stem)
            rows = [after_stem, self._model.feed(ending[:-1])] if ending[1:] else [after_stem]
            every = (row for some in rows for row in some)
            found.append(
                sum(float(log_probabilities(row)[id_]) for row, id_ in zip(every, ending, strict=True))
            )
        return found


def _shortened(ids: list[int], room: int) -> list[int]:
    """Leave out what is too much after the first token, which may be one that begins every text."""
    over = max(len(ids) - room, 0)
    return [*ids[:1], *ids[1 + over :]] if over else ids

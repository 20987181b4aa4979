"""Let models answer the same few prompts, so that people see what a training changed.

Law: answers are greedy; what a model says follows from the model and the prompt alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from slmops.artifact import golden as goldens
from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_model import Shape
from slmops.build.run_tasks import Reader
from slmops.build.subject import context_of_source, open_weights, open_words
from slmops.build.texts import read_text
from slmops.train.lessons import ASSISTANT, Exchange, Lesson, Talk, Text, lessons

PROMPTS = 3
ANSWER = 48
"""Tokens of an answer at most."""
CONTEXT = 512
OPENING = 12
"""Words of a text that is to be continued."""


def prompts_of(folder: Path, files: Sequence[Path]) -> list[Golden]:
    """Return a few prompts: golden ones of `folder`, else such as `files` teach answers to."""
    golden = folder / goldens.FILE_NAME
    if golden.is_file():
        asked = goldens.questions(goldens.read(golden.read_text(encoding="utf-8"), str(golden)))
        return [replace(one, max_tokens=ANSWER) for one in asked[:PROMPTS]]
    return [_prompt(one) for one in islice(_lessons(files), PROMPTS)]


def questions_in(files: Sequence[Path], most: int) -> tuple[Golden, ...]:
    """Return what is asked in `files`, the first `most` of it; nothing of plain text."""
    asked = (one for one in _lessons(files) if not isinstance(one, Text))
    return tuple(_prompt(one) for one in islice(asked, most))


def _lessons(files: Sequence[Path]) -> Iterator[Lesson]:
    return (one for file in files for one in lessons(read_text(file), str(file)))


def sample_answers(
    checkpoint: Checkpoint, prompts: Sequence[Golden], progress: Progress = silent
) -> list[str]:
    """Return what the model answers to each of `prompts`."""
    return isolate(f"asking {checkpoint.folder.name}", _answer, progress, checkpoint, list(prompts))


def _answer(progress: Progress, checkpoint: Checkpoint, prompts: list[Golden]) -> list[str]:
    context = min(context_of_source(checkpoint), CONTEXT)
    reader = Reader(open_weights(checkpoint, Shape(context), progress), open_words(checkpoint), context)
    return [reader.answer(one) for one in prompts]


def _prompt(lesson: Lesson) -> Golden:
    if isinstance(lesson, Exchange):
        return Golden(expect=lesson.answer, prompt=lesson.prompt, max_tokens=ANSWER)
    if isinstance(lesson, Talk):
        asked = [dict(message) for message in lesson.messages]
        last = asked.pop() if asked[-1]["role"] == ASSISTANT else {"content": ""}
        return Golden(expect=last["content"], messages=asked, max_tokens=ANSWER)
    return Golden(expect="", prompt=" ".join(lesson.text.split(" ")[:OPENING]), max_tokens=ANSWER)

"""Let a teacher write answers to prompts, as data to learn from: sequence-level distillation's first stage.

Beside OUT.jsonl, the answers that are kept, lie OUT.said.jsonl, all that the teacher said, by which a run
that was killed goes on and another sieve costs nothing; and OUT.dropped.jsonl, what was dropped and why.

Laws: the same teacher, files and asking give the same OUT.jsonl, however often the run was killed; OUT.jsonl
is there whole or not at all; a file that this did not begin is not overwritten.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.build.isolate import Progress, silent
from slmops.build.phrase import CheckpointPhrasing
from slmops.errors import ModelError, TrainingError, UsageError
from slmops.train.answers import WRITTEN, Answer, Asking, Question, Teacher, check, distinct, line
from slmops.train.ask_endpoint import Endpoint, ask_endpoint
from slmops.train.keep_answers import Heard, keep_answers
from slmops.train.read_questions import read_questions
from slmops.train.sieve import CUT, Judged, judge

EXAMPLES = 3


@dataclass(frozen=True)
class Summary:
    """What came of asking a teacher."""

    teacher: Teacher
    questions: int
    """Different ones."""
    repeated: int
    """Questions that stood in the files again."""
    answers: int
    """Written by the teacher, in all runs."""
    kept: int
    dropped: Mapping[str, int]
    """Answers, by the reason why they were dropped."""
    tokens: int
    """The teacher's own, of all answers."""
    written: int
    """Tokens that were written in this run."""
    seconds: float
    """How long that took."""
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Some questions and the answers that were kept."""

    @property
    def per_second(self) -> float | None:
        """Return the tokens per second of this run; None where it wrote none."""
        return self.written / self.seconds if self.written else None


def said_beside(out: Path) -> Path:
    """Return the file of all that a teacher said."""
    return out.with_name(f"{out.stem}.said.jsonl")


def dropped_beside(out: Path) -> Path:
    """Return the file of what was dropped, and why."""
    return out.with_name(f"{out.stem}.dropped.jsonl")


def write_answers(
    teacher: Checkpoint | Endpoint,
    files: Sequence[Path],
    out: Path,
    asking: Asking,
    progress: Progress = silent,
    *,
    fresh: bool = False,
) -> Summary:
    """Ask `teacher` what stands in `files`, and write what is worth learning to `out`.

    With `fresh`, answers to another asking that are there are forgotten.

    Raises DocumentError for a file that holds no questions, UsageError for an `out` that is somebody
    else's, TrainingError when no answer is kept or the disk is full, UnreachableError for an endpoint that
    does not answer.
    """
    every = questions_of(teacher, files, asking)
    questions, journal = distinct(every), said_beside(out)
    if out.exists() and not journal.exists():
        raise UsageError(
            f"{out} is there already, and was not written by this command",
            remedy=f"Give another --out, or remove it; {journal.name} beside it would say what it is.",
        )
    who = describe(teacher)
    identity = {**who.said, **asking.manner, **_dealt(teacher, questions, asking)}
    heard = _ask(teacher, questions, asking, (journal, identity), progress, fresh=fresh)
    given = [
        [heard.answers[question.digest, number] for number in range(asking.answers)] for question in questions
    ]
    judged = judge(given, asking.sieve)
    lines = [
        line(questions[each.question], each.number, given[each.question][each.number], who, asking)
        for each in judged
    ]
    kept = [one for one, each in zip(lines, judged, strict=True) if each.reason is None]
    _put(
        dropped_beside(out),
        [_told(one, each.reason) for one, each in zip(lines, judged, strict=True) if each.reason],
    )
    _put(out, kept)
    if not kept:
        raise _nothing(out, judged)
    return Summary(
        who,
        len(questions),
        len(every) - len(questions),
        sum(answer.finish in WRITTEN for some in given for answer in some),
        len(kept),
        Counter(each.reason for each in judged if each.reason),
        sum(answer.tokens for some in given for answer in some),
        heard.written,
        heard.seconds,
        _examples(questions, given, judged),
    )


def questions_of(teacher: Checkpoint | Endpoint, files: Sequence[Path], asking: Asking) -> list[Question]:
    """Return what stands in `files` to be asked; raise DocumentError when that is nothing.

    Raises UsageError for an asking that makes no sense.
    """
    check(asking)
    words = None if isinstance(teacher, Endpoint) else CheckpointPhrasing(teacher)
    return read_questions(files, asking, words)


def describe(teacher: Checkpoint | Endpoint) -> Teacher:
    """Return who answers; of a checkpoint every byte is read once."""
    if isinstance(teacher, Endpoint):
        return Teacher(teacher.model, endpoint=teacher.url)
    if is_classifier(teacher.config):
        raise ModelError(
            f"{teacher.folder} labels texts, it writes no answers", remedy="Give a model that writes text."
        )
    return Teacher(teacher.folder.name, digest=teacher.digest)


def _dealt(teacher: Checkpoint | Endpoint, questions: Sequence[Question], asking: Asking) -> dict[str, Any]:
    """Return what decides which answers are written side by side: it rounds them, in the last bits.

    An endpoint deals by itself, so that more questions may be added to those it was asked.
    """
    if isinstance(teacher, Endpoint):
        return {}
    asked = digests.of_pieces(question.digest.encode() for question in questions)
    return {"questions": asked, "answers": asking.answers, "batch": asking.batch}


def _ask(
    teacher: Checkpoint | Endpoint,
    questions: list[Question],
    asking: Asking,
    journal: tuple[Path, dict[str, Any]],
    progress: Progress,
    *,
    fresh: bool,
) -> Heard:
    wanted = {(question.digest, number) for question in questions for number in range(asking.answers)}
    with keep_answers(*journal, progress, fresh=fresh) as kept:
        if wanted <= kept.answers.keys():
            return kept.heard()
    if isinstance(teacher, Endpoint):
        return ask_endpoint(teacher, questions, asking, journal, progress)
    from slmops.train.ask_checkpoint import ask_checkpoint  # noqa: PLC0415 - torch, for this teacher alone

    return ask_checkpoint(teacher, questions, asking, journal, progress)


def _told(one: str, reason: str | None) -> str:
    return json.dumps({**json.loads(one), "dropped": reason}, ensure_ascii=False)


def _put(file: Path, lines: Sequence[str]) -> None:
    """Write a file whole or not at all; one without lines is not there."""
    writing = file.with_name(f".{file.name}.writing")
    try:
        if not lines:
            file.unlink(missing_ok=True)
            return
        with writing.open("w", encoding="utf-8") as out:
            out.writelines(f"{one}\n" for one in lines)
            out.flush()
            os.fsync(out.fileno())
        writing.replace(file)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise TrainingError(
            f"{file} cannot be written: {error.strerror}",
            remedy="Make room on its disk and run the same command again: nothing is asked twice.",
        ) from error


def _nothing(out: Path, judged: Sequence[Judged]) -> TrainingError:
    reasons = Counter(str(each.reason) for each in judged).most_common()
    told = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return TrainingError(
        f"none of {len(judged)} answers is kept: {told}",
        remedy="Give more --max-tokens, or --keep-cut."
        if reasons[0][0] == CUT
        else f"See {dropped_beside(out)}; ask less of answers, or ask other prompts.",
    )


def _examples(
    questions: Sequence[Question], given: Sequence[Sequence[Answer]], judged: Sequence[Judged]
) -> list[tuple[str, str]]:
    """Return a few of what is kept, from all over."""
    kept = [each for each in judged if each.reason is None]
    some = [kept[number * len(kept) // EXAMPLES] for number in range(min(EXAMPLES, len(kept)))]
    return [(questions[each.question].text, given[each.question][each.number].text) for each in some]

"""What a teacher is asked, what it answers, and the line of data that both make.

Pure. A question is a prompt that is continued, or a conversation that ends on a user's turn.

Laws: equal questions have equal digests, and the dice of an answer are thrown from the seed, that digest
and the answer's number alone, whatever else is asked; a line says who wrote it and how, never when, and
`build/texts.py` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from slmops import digest as digests
from slmops.artifact.golden import Golden
from slmops.errors import UsageError
from slmops.train.sieve import Sieve

Finish = Literal["stop", "length", "prompt too long", "prompt has unknown characters", "refused"]
"""Why an answer ended: by itself, or at the limit; else why there is none."""
WRITTEN: tuple[Finish, ...] = ("stop", "length")
"""The finishes of answers that were written."""
MOST_TEMPERATURE = 2.0
_SEED_BITS = 2**31 - 1
"""A seed of so many bits every server takes."""
_CUTS = 8
"""Words among which a document is cut."""
_CUT = re.compile(r"(?<=\w)(?=\s+\S)")


@dataclass(frozen=True)
class Question:
    """What a teacher is asked: either `prompt` or `messages`."""

    where: str
    """Which line of which file it stands on."""
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of what is asked, wherever it stands."""
        return digests.of_bytes(json.dumps(self.said, ensure_ascii=False, sort_keys=True).encode())

    @property
    def said(self) -> dict[str, Any]:
        """Return what is asked as JSON has it."""
        if self.messages is None:
            return {"prompt": self.prompt}
        return {"messages": [dict(message) for message in self.messages]}

    @property
    def golden(self) -> Golden:
        """Return it as the words of a model know questions."""
        return Golden(expect="", **self.said)

    @property
    def text(self) -> str:
        """Return what is asked, for people."""
        return self.golden.question


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    finish: Finish
    tokens: int = 0
    """The teacher's own, without the one that ends it."""
    likelihood: float | None = None
    """Mean log-probability of its tokens, in nats, the one that ends it among them; None: not known."""


@dataclass(frozen=True)
class Teacher:
    """Who answers, as every line says it."""

    name: str
    """A folder's name, or the model that an endpoint was asked for."""
    digest: str | None = None
    """Sha256 of its files, of a teacher that lies here."""
    endpoint: str | None = None

    @property
    def said(self) -> dict[str, str]:
        """Return it as JSON has it."""
        both = {"digest": self.digest, "endpoint": self.endpoint}
        return {"teacher": self.name} | {key: value for key, value in both.items() if value is not None}


@dataclass(frozen=True)
class Asking:
    """How a teacher is asked, and which of its answers are kept."""

    answers: int = 1
    """To each question."""
    max_tokens: int = 256
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    batch: int = 32
    """Answers that are written side by side, or asked for at once."""
    chat: bool = False
    """A plain prompt is asked as a user's turn."""
    opening_words: int | None = None
    """The files hold documents, of which so many words are given to be continued; None: they hold prompts."""
    sieve: Sieve = field(default_factory=Sieve)

    @property
    def manner(self) -> dict[str, float]:
        """Return what decides how a question is answered."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }


def check(asking: Asking) -> None:
    """Raise UsageError for an asking that makes no sense."""
    if min(asking.answers, asking.max_tokens, asking.batch, asking.opening_words or 1) < 1:
        raise UsageError("expected at least one answer, token, opening word, and question at once")
    if not 0 <= asking.temperature <= MOST_TEMPERATURE or not 0 < asking.top_p <= 1:
        raise UsageError(
            f"expected a temperature of 0 to {MOST_TEMPERATURE} and a top-p of more than 0, at most 1; "
            f"got {asking.temperature} and {asking.top_p}"
        )
    if asking.answers > 1 and asking.temperature == 0:
        raise UsageError(
            f"at temperature 0 all {asking.answers} answers to a prompt would be one",
            remedy="Ask at a temperature above 0, or for one answer.",
        )
    if asking.sieve.vote and asking.answers == 1:
        raise UsageError("one answer is no vote", remedy="Ask for several answers to each prompt: 5, say.")


def seed_of(asking: Asking, question: Question, number: int) -> int:
    """Return the seed of one answer: 31 bits."""
    said = f"{asking.seed} {question.digest} {number}"
    return int(digests.hexdigits(digests.of_bytes(said.encode())), 16) & _SEED_BITS


def line(question: Question, number: int, answer: Answer, teacher: Teacher, asking: Asking) -> str:
    """Return one line of data without its end: what was asked and answered, and `provenance`."""
    if question.messages is None:
        said: dict[str, Any] = {"prompt": question.prompt, "completion": answer.text}
    else:
        said = {"messages": [*question.said["messages"], {"role": "assistant", "content": answer.text}]}
    provenance = {
        **teacher.said,
        **asking.manner,
        "number": number,
        "finish": answer.finish,
        "tokens": answer.tokens,
        "likelihood": answer.likelihood,
    }
    return json.dumps({**said, "provenance": provenance}, ensure_ascii=False)


def openings(text: str, words: int) -> Iterator[str]:
    """Yield where a text may be cut for its end to be written anew: after `words` words, or a few more.

    An opening ends on a letter or a digit, or on the space after it; many a vocabulary joins a sentence's
    end to what follows. A text that is too short has none.
    """
    begun = text.lstrip()
    ends = [found.start() for found in _CUT.finditer(begun)]
    for end in ends[words - 1 : words - 1 + _CUTS]:
        yield begun[:end]
        yield begun[: end + 1]


def distinct(questions: Sequence[Question]) -> list[Question]:
    """Return each question once, where it first stands."""
    found: dict[str, Question] = {}
    for question in questions:
        found.setdefault(question.digest, question)
    return list(found.values())

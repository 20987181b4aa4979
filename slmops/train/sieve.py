"""Which answers of a teacher are worth learning, and why not the others.

Pure. Knows answers by their text and how they ended, not who wrote them.

Laws: an answer is dropped for one reason, the first that holds; what is kept is in the order of the
questions, the likeliest answer to each first; short answers may rightly be the same to different
questions, so that across questions long ones alone are compared.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from slmops.train.likeness import NEAR, Runs, Shelf, likeness, normal, runs, words

EMPTY = "empty"
CUT = "cut at the limit"
SHORT = "too short"
LONG = "too long"
NO_JSON = "not JSON"
REFUSAL = "refusal"
CIRCLES = "goes in circles"
OUTVOTED = "outvoted"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"

LONG_RUNS = 24
"""Runs of words from which on an answer is long: nobody writes the same so long by chance."""
CIRCLE_WORDS = 4
CIRCLE_SHARE = 0.3
"""Share of an answer's runs of four words that were there before, above which it goes in circles."""
LEAST_CIRCLED = 20
"""Words of an answer of which that is asked."""
ROUNDS = 4
LEAST_TAIL = 32
"""Characters, at least, of an end that is one piece again and again, `ROUNDS` times."""
MOST_PERIOD = 200
_REFUSALS = re.compile(
    r"\W*((i'?m|i am) (sorry|afraid|unable|not able|just an ai)|sorry,|i apologi[sz]e|unfortunately,? i\b"
    r"|as an ai\b|i (cannot|can'?t|can not|won'?t|will not) "
    r"(help|assist|answer|provide|comply|do|fulfil|discuss))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sieve:
    """What is asked of an answer, beside that it is there, is no duplicate and does not go in circles."""

    keep_cut: bool = False
    """Keep what ended at the limit of tokens."""
    json_only: bool = False
    refusals: bool = True
    """Keep refusals."""
    vote: bool = False
    """Of several answers to a question keep the one that was given most often."""
    least: int = 1
    """Characters."""
    most: int | None = None


class Said(Protocol):
    """An answer, as far as it is judged."""

    @property
    def text(self) -> str:
        """Return what it says."""

    @property
    def finish(self) -> str:
        """Return how it ended: "stop", "length", or the reason why there is none."""

    @property
    def likelihood(self) -> float | None:
        """Return the mean log-probability of its tokens, where known."""


@dataclass(frozen=True)
class Judged:
    """What became of one answer."""

    question: int
    number: int
    reason: str | None
    """Why it is dropped; None: it is kept."""


def judge(asked: Sequence[Sequence[Said]], sieve: Sieve) -> list[Judged]:
    """Return what becomes of every answer; `asked` has the answers to each question."""
    shelf = Shelf()
    return [
        Judged(place, number, reason)
        for place, answers in enumerate(asked)
        for number, reason in _one(answers, sieve, shelf)
    ]


def flaw(answer: Said, sieve: Sieve) -> str | None:
    """Return why an answer is not worth learning, whatever others say; None where it is."""
    text = answer.text.strip()
    flaws: tuple[tuple[str, Callable[[], bool]], ...] = (
        (answer.finish, lambda: answer.finish not in ("stop", "length")),
        (EMPTY, lambda: not text),
        (CUT, lambda: answer.finish == "length" and not sieve.keep_cut),
        (SHORT, lambda: len(text) < sieve.least),
        (LONG, lambda: sieve.most is not None and len(text) > sieve.most),
        (NO_JSON, lambda: sieve.json_only and _canonical(text) is None),
        (REFUSAL, lambda: not sieve.refusals and _REFUSALS.match(text.replace("\u2019", "'")) is not None),
        (CIRCLES, lambda: circles(text)),
    )
    return next((reason for reason, holds in flaws if holds()), None)


def circles(text: str) -> bool:
    """Return whether a text says the same again and again: in runs of words, or one piece at its end."""
    tail = text[-MOST_PERIOD * ROUNDS :]
    for period in range(1, min(MOST_PERIOD, len(tail) // ROUNDS) + 1):
        size = max(period * ROUNDS, LEAST_TAIL)
        if size <= len(tail) and tail[-size:-period] == tail[-size + period :]:
            return True
    every = words(text)
    if len(every) < LEAST_CIRCLED:
        return False
    told = [tuple(every[start : start + CIRCLE_WORDS]) for start in range(len(every) - CIRCLE_WORDS + 1)]
    return 1 - len(set(told)) / len(told) > CIRCLE_SHARE


def _one(answers: Sequence[Said], sieve: Sieve, shelf: Shelf) -> Iterator[tuple[int, str | None]]:
    """Yield number and reason of every answer to one question, the likeliest first."""
    flaws = [flaw(answer, sieve) for answer in answers]
    sound = [number for number, reason in enumerate(flaws) if reason is None]
    same = {number: _same(answers[number].text) for number in sound}
    ranked = sorted(sound, key=lambda number: (-(answers[number].likelihood or 0.0), number))
    votes = Counter(same.values())
    # Of several with as many votes, the one with the likeliest answer.
    winner = max(ranked, key=lambda number: votes[same[number]]) if sieve.vote and ranked else None
    told, taken = set[str](), list[Runs]()
    for number in ranked:
        if winner is not None and same[number] != same[winner]:
            yield number, OUTVOTED
        elif same[number] in told:
            yield number, DUPLICATE
        else:
            told.add(same[number])
            mine = runs(answers[number].text)
            reason = _repeated(mine, taken, shelf)
            if reason is None:
                taken.append(mine)
            yield number, reason
    for mine in taken:
        if len(mine) >= LONG_RUNS:
            shelf.put(mine)
    yield from ((number, reason) for number, reason in enumerate(flaws) if reason is not None)


def _repeated(mine: Runs, taken: Sequence[Runs], shelf: Shelf) -> str | None:
    if any(likeness(mine, other) >= NEAR for other in taken):
        return NEAR_DUPLICATE
    return NEAR_DUPLICATE if len(mine) >= LONG_RUNS and shelf.near(mine) else None


def _same(text: str) -> str:
    """Return by what equal answers are known: JSON by its value, any other text without case and spaces."""
    return _canonical(text) or normal(text)


def _canonical(text: str) -> str | None:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None

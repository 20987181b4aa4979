"""Golden prompts: questions whose answers a release stands by.

A release carries them as JSON lines; every device is asked them before it counts as updated.
An answer is judged by the way its line names: exact, prefix, contains, regex, or json (equal
as JSON values). A line of the way logprob wants no answer: its prompt is a text, and `expect` lists the
log-probability, in nats, that each token of it after the first had on the build host in the very same
file; it holds when this device's numbers lie near enough to those.

Laws: missing data never passes: an empty set of prompts is an error, a text of another number of tokens
is infinitely far. The distance of numbers from themselves is nothing.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slmops.errors import DocumentError

FILE_NAME = "golden.jsonl"
LOGPROB = "logprob"
WAYS = ("exact", "prefix", "contains", "regex", "json", LOGPROB)
TOLERANCE = 0.05
"""Nats that a reference may lie off. Measured: the same file on the same processor 0, with other
instruction sets up to 0.03; with the scales of one layer off by 3 % from 0.07, another type from 0.15."""
EXAMPLE = '{"prompt": "2 + 2 =", "expect": "4", "match": "prefix"}'
KEYS = {"prompt": str, "messages": list, "expect": object, "match": str, "max_tokens": int}


@dataclass(frozen=True)
class Golden:
    """One golden prompt: either `prompt` (completion) or `messages` (chat), never both."""

    expect: Any
    match: str = "exact"
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    max_tokens: int = 64

    @property
    def question(self) -> str:
        """Return what is asked, for people."""
        return self.prompt if self.prompt is not None else (self.messages or [{}])[-1].get("content", "")

    @property
    def is_reference(self) -> bool:
        """Say whether it is a text with the log-probabilities of one file, and no question."""
        return self.match == LOGPROB


def read(text: str, name: str = FILE_NAME) -> list[Golden]:
    """Read JSON lines; raise DocumentError naming file, line and key."""
    found = [
        _read_line(line, f"{name}, line {number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not found:
        raise DocumentError(
            f"{name} holds no golden prompts", remedy=f"Add one JSON object a line, such as {EXAMPLE}"
        )
    return found


def render(prompts: Iterable[Golden]) -> str:
    """Return the prompts as JSON lines, which `read` reads back."""
    lines = []
    for golden in prompts:
        said = {key: value for key, value in asdict(golden).items() if value is not None or key == "expect"}
        lines.append(json.dumps(said, ensure_ascii=False) + "\n")
    return "".join(lines)


def questions(prompts: Iterable[Golden]) -> list[Golden]:
    """Return those that any model of the same words may be asked: references are of one file alone."""
    return [golden for golden in prompts if not golden.is_reference]


def distance(golden: Golden, found: Sequence[float]) -> float:
    """Return how far log-probabilities lie from a reference's: the mean difference of a token, in nats.

    Infinite where they are not as many, or not all numbers.
    """
    expected = golden.expect
    if len(found) != len(expected) or not all(map(math.isfinite, found)):
        return math.inf
    return math.fsum(abs(one - other) for one, other in zip(found, expected)) / len(expected)


def passes(golden: Golden, answer: str) -> bool:
    """Say whether `answer` is what `golden` expects; white space at the ends does not count.

    A pattern may take for ever: who must not stand still for it asks `judge`.
    """
    said, expected = answer.strip(), golden.expect
    if golden.match == "json":
        return _is_json(said, expected)
    if golden.match == "regex":
        return re.search(str(expected), said) is not None
    text = str(expected).strip()
    found = {"exact": said == text, "prefix": said.startswith(text), "contains": text in said}
    return found.get(golden.match, False)


def _is_json(said: str, expected: Any) -> bool:
    try:
        return _canonical(json.loads(said)) == _canonical(expected)
    except (ValueError, RecursionError):
        return False


def _canonical(value: Any) -> str:
    """Return JSON by which values compare: true is not 1, and the order of keys means nothing."""
    return json.dumps(value, sort_keys=True)


def _read_line(line: str, where: str) -> Golden:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise _fault(where, f"not JSON: {error}") from error
    if not isinstance(said, dict):
        raise _fault(where, f"expected an object, got {type(said).__name__}")
    _check_keys(said, where)
    if ("prompt" in said) == ("messages" in said):
        raise _fault(where, "expected either 'prompt' or 'messages'")
    if "expect" not in said:
        raise _fault(where, "'expect' is missing")
    golden = Golden(**said)
    _check_values(golden, where)
    return golden


def _check_values(golden: Golden, where: str) -> None:
    if golden.messages == []:
        raise _fault(where, "messages: expected at least one")
    if golden.max_tokens < 1:
        raise _fault(where, "max_tokens: expected at least one")
    if golden.match not in WAYS:
        raise _fault(where, f"match: expected one of {', '.join(WAYS)}, got {golden.match!r}")
    if golden.match == "regex":
        _compiles(str(golden.expect), where)
    if golden.is_reference and not _is_scores(golden):
        raise _fault(where, "logprob: expected a prompt, and in 'expect' a list of numbers of 0 or less")
    if golden.match in ("prefix", "contains", "regex") and not str(golden.expect).strip():
        raise _fault(where, "expect is empty: any answer would pass")


def _is_scores(golden: Golden) -> bool:
    scores = golden.expect
    return (
        golden.prompt is not None
        and isinstance(scores, list)
        and bool(scores)
        and all(type(each) in (int, float) and math.isfinite(each) and each <= 0 for each in scores)
    )


def _check_keys(said: dict[str, Any], where: str) -> None:
    for key, value in said.items():
        if key not in KEYS:
            raise _fault(where, f"unknown key {key!r}; known are {', '.join(sorted(KEYS))}")
        kind = KEYS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _fault(where, f"{key}: expected {kind.__name__}, got {value!r}")
    for message in said.get("messages", []):
        if (
            not isinstance(message, dict)
            or set(map(type, message.values())) - {str}
            or "content" not in message
        ):
            raise _fault(where, f"messages: expected role and content as text, got {message!r}")


def _fault(where: str, what: str) -> DocumentError:
    return DocumentError(f"{where}: {what}", remedy=f"One JSON object a line, such as {EXAMPLE}")


def _compiles(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise _fault(where, f"expect is not a regular expression: {error}") from error

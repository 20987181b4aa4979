"""How models write the calls of tools, and the calls read out of what they write.

Pure. Two ways are known: JSON between <tool_call> and </tool_call> (Qwen, Hermes and those after them), and
JSON alone (Llama 3, and whoever's marks are control tokens, which are no text). It does not know tokens,
templates or how an answer is told.

Laws: however the text was cut, the same text and the same calls are read from it; no mark is ever text; a
mark in a string of a call is part of the string; what was begun as a call and is none is text, its marks left
out, and ends at the first of them; JSON alone is a call only where it names a function that was offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MARK = re.compile(f"{OPEN}|{CLOSE}")
_STRING_OR_MARK = re.compile(rf'"(?:[^"\\]++|\\.)*+"|"|{OPEN}|{CLOSE}', re.DOTALL)
"""A string of JSON, the beginning of one that does not end, or a mark."""
_BETWEEN = re.compile(r"[\s;,]*")
"""What may stand between two calls that are JSON alone."""


@dataclass(frozen=True)
class Call:
    """One call of a function."""

    name: str
    arguments: str
    """JSON, unless the model wrote something else in its place."""


class Calls:
    """Reads calls out of text that comes piece by piece."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are the functions that were offered."""
        self._names = frozenset(names)
        self._held = ""
        self._inside = False
        """Whether what is held stands after an opening mark."""
        self._begun = False
        """Whether there was anything that is not held: text, or a mark."""
        self._found = False
        """Whether there was any call."""
        self._looked = 0
        """Letters of what is held in which no mark ends anything, whatever comes."""

    def push(self, text: str) -> tuple[str, list[Call]]:
        """Take more text; return what of it is certainly text, and the calls that are whole now."""
        self._held += text
        return self._read(last=False)

    def _read(self, *, last: bool) -> tuple[str, list[Call]]:
        """Return what is certain; `last` says that no more comes."""
        said, calls = list[str](), list[Call]()
        while mark := self._mark(last=last):
            before, self._held, self._begun = self._held[: mark.start()], self._held[mark.end() :], True
            self._looked = 0
            if self._inside:
                self._close(before, said, calls)
            else:
                # The line that a model begins before a call is part of the call.
                said.append(before.rstrip() if mark[0] == OPEN else before)
            self._inside = mark[0] == OPEN
        if not self._inside and not self._alone_so_far():
            size = len(self._held[: len(self._held) - _overlap(self._held)].rstrip())
            said.append(self._held[:size])
            self._held, self._begun = self._held[size:], self._begun or size > 0
            self._looked = 0
        return "".join(said), calls

    def flush(self) -> tuple[str, list[Call]]:
        """Take the end; return what is left, as `push` does."""
        text, calls = self._read(last=True)
        held, self._held = self._held, ""
        said = [text]
        if self._inside:
            self._close(_unmarked(held), said, calls)
            return "".join(said), calls
        alone = [] if self._begun else self._alone(held)
        if not alone and not (self._found and held.isspace()):
            said.append(held)
        return "".join(said), [*calls, *alone]

    def _mark(self, *, last: bool) -> re.Match[str] | None:
        """Return the first mark of what is held: in no string, if a call goes so far; else of all."""
        if not last and not _MARK.search(self._held, max(0, self._looked - len(CLOSE) + 1)):
            # It was gone through: to do so again with each piece would take ever longer.
            self._looked = len(self._held)
            return None
        first = _MARK.search(self._held)
        if first is None or not (self._inside or self._alone_so_far()):
            return first
        end = _outside_strings(self._held)
        if end is None and not last:
            self._looked = len(self._held)
            return None
        if self._inside:
            called = _called(self._held[: end.start()] if end else _unmarked(self._held)) is not None
        else:
            called = end is None and bool(self._alone(self._held))
        return end if called else first

    def _close(self, inside: str, said: list[str], calls: list[Call]) -> None:
        call = _called(inside)
        if call is None:
            said.append(inside)
        else:
            calls.append(call)
            self._found = True

    def _alone_so_far(self) -> bool:
        """Say whether all there was may be the beginning of calls that are JSON alone."""
        return not self._begun and self._held.lstrip()[:1] in {"{", "["}

    def _alone(self, text: str) -> list[Call]:
        """Return the calls in a text that is JSON and nothing else; none where it is not."""
        reader = json.JSONDecoder(strict=False, parse_constant=_no_number)
        calls, at = list[Call](), _end_of(_BETWEEN, text, 0)
        try:
            while at < len(text):
                value, at = reader.raw_decode(text, at)
                calls += [_call(each) for each in (value if isinstance(value, list) else [value])]
                at = _end_of(_BETWEEN, text, at)
        except (ValueError, RecursionError):
            return []
        return calls if all(call.name in self._names for call in calls) else []


def _called(inside: str) -> Call | None:
    """Return the call that a text is, if it is one."""
    try:
        return _call(json.loads(inside, strict=False, parse_constant=_no_number))
    except (ValueError, RecursionError):
        return None


def _outside_strings(text: str) -> re.Match[str] | None:
    """Return the first mark that is in no string, as JSON has them."""
    found = (each for each in _STRING_OR_MARK.finditer(text) if each[0] == '"' or each[0][0] == "<")
    first = next(found, None)
    return first if first and first[0] != '"' else None


def _unmarked(text: str) -> str:
    """Return a text that has ended without the mark that it may have begun last."""
    return text[: len(text) - _overlap(text)]


def _call(said: Any) -> Call:
    """Return what `said` calls; raise ValueError where it calls nothing."""
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or not said["name"]:
        raise ValueError("no call")
    arguments = said.get("arguments", said.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return Call(_whole(said["name"]), _whole(arguments))


def _whole(text: str) -> str:
    """Return a text without halves of characters: JSON can write them, and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _overlap(text: str) -> int:
    """Return the length of the longest end of `text` that is the beginning of a mark, not all of it."""
    longest = min(len(text), len(CLOSE) - 1)
    return next(
        (
            size
            for size in range(longest, 0, -1)
            if any(mark.startswith(text[-size:]) and size < len(mark) for mark in (OPEN, CLOSE))
        ),
        0,
    )


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")

"""What a file of training data says, lesson by lesson: a text, a prompt and its answer, or a conversation.

A .jsonl file has an object a line: `text`; `prompt` and what follows it, `completion` or `expect`; or
`messages`, in which the assistant's are learned, with `completion` or `expect` as its last one where that
is said. Any other file is text: where it has `<|endoftext|>`, that stands between documents.

Pure: text in, values out. Laws: what a line is not, its error names with file and line; an answer that
is a JSON value is learned as JSON; what only describes an answer is not learned as one; that an answer was
cut is known where its line says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slmops.build.json_lines import messages, objects
from slmops.errors import DocumentError

SEPARATOR = "<|endoftext|>"
EXAMPLES = (
    '{"text": "..."}, {"prompt": "...", "completion": "..."} or '
    '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
)
LITERAL = ("exact", "json")
"""Ways of a golden prompt in which what it expects is an answer, and not a mark of one."""
ASSISTANT = "assistant"
CUT = "length"
"""How an answer finished that was cut."""


@dataclass(frozen=True)
class Text:
    """A text that is learned from its beginning to its end."""

    text: str


@dataclass(frozen=True)
class Exchange:
    """A prompt as it stands, and what is to follow it, which alone is learned."""

    prompt: str
    answer: str
    cut: bool = False
    """The answer ends where its writer had to stop, and not by itself."""


@dataclass(frozen=True)
class Talk:
    """A conversation, of which what the assistant says is learned."""

    messages: tuple[dict[str, str], ...]
    where: str
    cut: bool = False
    """So does the last answer."""


Lesson = Text | Exchange | Talk


def lessons(said: str, name: str) -> Iterator[Lesson]:
    """Yield what the file called `name`, which says `said`, teaches; raise DocumentError for a bad line."""
    if name.lower().endswith(".jsonl"):
        yield from (_lesson(one, where) for where, one in objects(said, name, EXAMPLES))
    else:
        yield from (Text(text) for part in said.split(SEPARATOR) if (text := part.strip()))


def _lesson(said: dict[str, Any], where: str) -> Lesson:
    if "messages" in said:
        return _talk(said, where)
    if "prompt" in said:
        prompt, answer = said["prompt"], _answer(said, where)
        if isinstance(prompt, str) and answer is not None:
            return Exchange(prompt, answer, _is_cut(said))
    text = said.get("text")
    if isinstance(text, str) and text.strip():
        return Text(text)
    raise DocumentError(
        f"{where}: expected something to learn, got keys {sorted(said)}", remedy=f"Write {EXAMPLES}"
    )


def _talk(said: dict[str, Any], where: str) -> Talk:
    talk, answer = messages(said["messages"], where, EXAMPLES), _answer(said, where)
    if answer is not None:
        talk = [*talk, {"role": ASSISTANT, "content": answer}]
    if not any(message["role"] == ASSISTANT for message in talk):
        raise DocumentError(
            f"{where}: messages: expected one of the {ASSISTANT}'s to learn, got none",
            remedy=f'Add what it is to answer, as its message or under "completion": {EXAMPLES}',
        )
    return Talk(tuple(talk), where, _is_cut(said))


def _is_cut(said: dict[str, Any]) -> bool:
    """Return whether `write-answers` kept an answer that ended at the limit of tokens."""
    written = said.get("provenance")
    return isinstance(written, dict) and written.get("finish") == CUT


def _answer(said: dict[str, Any], where: str) -> str | None:
    """Return what a line wants answered, or None where it does not say."""
    way = said.get("match", LITERAL[0])
    if way not in LITERAL:
        raise DocumentError(
            f"{where}: match: {way!r} only tells by what an answer is known, not what it is",
            remedy=f"Write the whole answer, and no match other than {' or '.join(LITERAL)}.",
        )
    answer = said.get("completion", said.get("expect"))
    if answer is None or isinstance(answer, str):
        return answer
    return json.dumps(answer, ensure_ascii=False)

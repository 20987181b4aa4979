"""Read the texts that a person gives to calibrate or to measure with, and cut them into token ids.

A .jsonl file has an object a line: `text`; `prompt` and what follows it, `completion` or `expect`;
or a conversation, `messages`. Any other file is text: where it has `<|endoftext|>`, that stands
between documents (a blank line within one is part of it); else it is one long text.

Laws: the same file, words and sizes give the same sequences; they come from all over the file, in
its order; each begins as a text that is served begins; none is longer than `length`, all together
are at most `tokens` long; what the vocabulary cannot write is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slmops.artifact.golden import Golden
from slmops.build.json_lines import messages, objects
from slmops.build.phrase import Phrasing
from slmops.errors import DocumentError

Text = str | list[dict[str, str]]
"""A plain text, or the messages of a conversation, each with `role` and `content`."""

SEPARATOR = "<|endoftext|>"
CHARACTERS_PER_TOKEN = 4
"""About: how much of a long text is read for one sequence."""
LEAST = 2
"""Tokens of a sequence at least: one that is read, one that is foretold."""
EXAMPLES = (
    '{"text": "..."}, {"prompt": "...", "completion": "..."} or '
    '{"messages": [{"role": "user", "content": "..."}]}'
)


def read_texts(file: Path) -> list[Text]:
    """Return the texts in `file`, none of them empty; raise DocumentError naming file and line."""
    said = read_text(file)
    if file.suffix.lower() == ".jsonl":
        texts = [_text_of(one, where) for where, one in objects(said, str(file), EXAMPLES)]
    else:
        texts = [text for part in said.split(SEPARATOR) if (text := part.strip())]
    if not texts:
        raise DocumentError(f"{file} holds no text", remedy="Give a .txt file, or .jsonl with a text a line.")
    return texts


def sequences(
    phrasing: Phrasing, file: Path, *, length: int, tokens: int, other: Phrasing | None = None
) -> list[list[int]]:
    """Return token ids from `file`: sequences of at most `length` ids, at most `tokens` in all.

    With `other`, what its vocabulary cannot write is left out too. Raises DocumentError when the file
    cannot be read, or holds nothing that is left.
    """
    parts = [part for text in read_texts(file) for part in passages(text, length * CHARACTERS_PER_TOKEN)]
    begin = phrasing.ids(Golden(expect="", prompt=""))
    found = dict[int, list[list[int]]]()
    left = tokens
    for place in spread(len(parts)):
        ids = phrasing.written(parts[place])
        if not _can_write(phrasing, ids):
            continue
        if other and not _can_write(other, other.written(phrasing.text(ids))):
            continue
        for window in windows(ids, begin, length):
            if len(cut := window[:left]) >= LEAST:
                found.setdefault(place, []).append(cut)
                left -= len(cut)
        if left < LEAST:
            break
    if not found:
        raise DocumentError(
            f"{file} holds no text that "
            + ("both models' vocabularies" if other else "this model's vocabulary")
            + " can write",
            remedy="Give text in the language, and the characters, that the model was trained on.",
        )
    return [ids for place in sorted(found) for ids in found[place]]


def read_text(file: Path) -> str:
    """Return what is in `file`; raise DocumentError unless it can be read as text in UTF-8."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DocumentError(
            f"{file} cannot be read: {error.strerror}", remedy="Give the path of a text file."
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DocumentError(
            f"{file}, line {line}: not text in UTF-8", remedy="Save the file as UTF-8."
        ) from error


def spread(count: int) -> Iterator[int]:
    """Yield 0 .. count-1 so that the first few, however many are taken, lie evenly over all.

    The order of van der Corput: a place's bits, read backwards.
    """
    width = max(count - 1, 0).bit_length()
    for number in range(2**width if count else 0):
        place = int(f"{number:0{width}b}"[::-1], 2) if width else 0
        if place < count:
            yield place


def _can_write(phrasing: Phrasing, ids: list[int]) -> bool:
    return phrasing.unknown_id is None or phrasing.unknown_id not in ids


def _text_of(said: dict[str, Any], where: str) -> Text:
    after = said.get("completion", said.get("expect"))
    if "messages" in said:
        talk = messages(said["messages"], where, EXAMPLES)
        return [*talk, {"role": "assistant", "content": after}] if isinstance(after, str) else talk
    text = said["text"] if "text" in said else _joined(said.get("prompt"), after)
    if not isinstance(text, str) or not text.strip():
        raise DocumentError(f"{where}: expected text, got keys {sorted(said)}", remedy=f"Write {EXAMPLES}")
    return text


def _joined(prompt: Any, after: Any) -> str | None:
    return prompt + after if isinstance(prompt, str) and isinstance(after, str) else None


def passages(text: Text, most: int) -> list[Text]:
    """Cut a text of more than `most` characters into passages of about one size, after words.

    A conversation stays whole.
    """
    if not isinstance(text, str):
        return [text]
    room = f".{{0,{_even(len(text), most) - 1}}}"
    return [found[0] for found in re.finditer(rf"\S(?:{room}(?!\S)|{room})", text, re.DOTALL)]


def windows(ids: list[int], begin: list[int], length: int) -> Iterator[list[int]]:
    """Cut the ids of a passage into windows of about one size, each of which begins as the passage does."""
    opening = begin if begin and ids[: len(begin)] == begin else []
    rest = ids[len(opening) :]
    step = _even(len(rest), length - len(opening))
    for start in range(0, len(rest), step):
        yield [*opening, *rest[start : start + step]]


def _even(whole: int, most: int) -> int:
    """Return the size of the parts, none above `most`, when `whole` is cut into as few as can be."""
    return max(math.ceil(whole / max(math.ceil(whole / most), 1)), 1)

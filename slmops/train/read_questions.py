"""Read what a teacher is to be asked: prompts, conversations, or the openings of documents.

A .jsonl file has an object a line with `prompt`, or with `messages`, whose last answer is left out where
there is one; what else stands there (`completion`, `expect`, a label) is not asked. Any other file has a
prompt a line. Documents are read as `build/texts.py` reads them.

Laws: what is no question, its error names with file and line; where the teacher's words are known, a document
is cut between two of its tokens, for a teacher that is shown half of one goes astray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slmops.build.json_lines import messages, objects
from slmops.build.phrase import Phrasing
from slmops.build.texts import read_text, read_texts
from slmops.errors import DocumentError
from slmops.train.answers import Asking, Question, openings

EXAMPLE = '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'


def read_questions(files: Sequence[Path], asking: Asking, phrasing: Phrasing | None = None) -> list[Question]:
    """Return the questions in `files`, in their order; raise DocumentError when there is none.

    `phrasing` are the words of the teacher, where they are known.
    """
    if asking.opening_words is not None:
        found = [each for file in files for each in _openings(file, asking.opening_words, phrasing)]
    else:
        found = [each for file in files for each in _questions(file, chat=asking.chat)]
    if not found:
        raise DocumentError(
            f"{', '.join(map(str, files))}: no prompts"
            if asking.opening_words is None
            else f"{', '.join(map(str, files))}: no document of more than {asking.opening_words} words",
            remedy=f"Give a .txt file with a prompt a line, or .jsonl: {EXAMPLE}",
        )
    return found


def _questions(file: Path, *, chat: bool) -> Iterator[Question]:
    said = read_text(file)
    if file.suffix.lower() != ".jsonl":
        for number, line in enumerate(said.split("\n"), 1):
            if line.strip():
                yield _asked(f"{file}, line {number}", line.strip(), chat=chat)
        return
    for where, one in objects(said, str(file), EXAMPLE):
        yield _question(one, where, chat=chat)


def _question(said: dict[str, Any], where: str, *, chat: bool) -> Question:
    if "messages" in said:
        return Question(where, messages=_conversation(said["messages"], where))
    prompt = said.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DocumentError(
            f"{where}: expected a prompt, got {repr(prompt) if 'prompt' in said else f'keys {sorted(said)}'}",
            remedy=f"Write {EXAMPLE}; documents that are to be continued go with --openings.",
        )
    return _asked(where, prompt, chat=chat)


def _conversation(said: Any, where: str) -> tuple[dict[str, str], ...]:
    talk = [{"role": each["role"], "content": each["content"]} for each in messages(said, where, EXAMPLE)]
    asked = talk[:-1] if talk[-1]["role"] == "assistant" else talk
    if not asked or asked[-1]["role"] in ("system", "assistant"):
        raise DocumentError(
            f"{where}: messages: expected a user's turn to answer, got those of "
            + ", ".join(each["role"] for each in talk),
            remedy=f"Write {EXAMPLE}",
        )
    return tuple(asked)


def _asked(where: str, prompt: str, *, chat: bool) -> Question:
    if chat:
        return Question(where, messages=({"role": "user", "content": prompt},))
    return Question(where, prompt=prompt)


def _openings(file: Path, words: int, phrasing: Phrasing | None) -> Iterator[Question]:
    for number, text in enumerate(read_texts(file), 1):
        if not isinstance(text, str):
            raise DocumentError(
                f"{file}: text {number} is a conversation, which has no opening to continue",
                remedy="Give conversations with --prompts.",
            )
        cuts = list(openings(text, words))
        whole = phrasing.written(text.lstrip()) if phrasing else []
        fitting = (cut for cut in cuts if phrasing and _begins(whole, phrasing.written(cut)))
        if cuts:
            yield Question(f"{file}, text {number}", prompt=next(fitting, cuts[0]))


def _begins(whole: list[int], cut: list[int]) -> bool:
    return whole[: len(cut)] == cut

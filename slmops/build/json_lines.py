"""JSON lines: an object a line, and the messages of a conversation in one.

Pure: text in, values out. Law: what a line is not, its error names with file and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slmops.errors import DocumentError


def objects(text: str, name: str, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of the file called `name`, after where it stands; blank lines do not count.

    `example` shows what a line may be, for the DocumentError of one that is no object.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield where, _object(line, where, example)


def messages(said: Any, where: str, example: str) -> list[dict[str, str]]:
    """Return the messages that `said` must be; raise DocumentError when it is something else."""
    remedy = f"Write {example}"
    if not isinstance(said, list) or not said:
        raise DocumentError(f"{where}: messages: expected a list of them, got {said!r}", remedy=remedy)
    for message in said:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise DocumentError(
                f"{where}: messages: expected role and content as text, got {message!r}", remedy=remedy
            )
    return said


def _object(line: str, where: str, example: str) -> dict[str, Any]:
    remedy = f"One JSON object a line: {example}"
    try:
        said = json.loads(line)
    except ValueError as error:
        raise DocumentError(f"{where}: not JSON: {error}", remedy=remedy) from error
    if not isinstance(said, dict):
        raise DocumentError(f"{where}: expected an object, got {type(said).__name__}", remedy=remedy)
    return said

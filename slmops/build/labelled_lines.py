"""A file of texts and, where they are known, their labels.

A .csv has a column `text` and, where labels are known, one of `label`, `category`, `intent`; a .jsonl
has an object a line with the same keys; any other file is text, one a line.

Pure: text in, values out. Law: what cannot be used, its error names with file and line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slmops.build.json_lines import objects
from slmops.errors import DocumentError

EXAMPLE = '{"text": "...", "label": "..."}'
LABEL_KEYS = ("label", "category", "intent")


@dataclass(frozen=True)
class Line:
    """A text, where it stands, and its label, if it has one, as the file writes it."""

    where: str
    text: str
    label: str | None = None


def read_lines(said: str, name: str) -> Iterator[Line]:
    """Yield what the file called `name`, which says `said`, has; raise DocumentError for a bad line."""
    if name.lower().endswith(".csv"):
        yield from _rows(said, name)
    elif name.lower().endswith(".jsonl"):
        yield from (line_of(one, where) for where, one in objects(said, name, EXAMPLE))
    else:
        lines = ((number, line.strip()) for number, line in enumerate(said.split("\n"), 1))
        yield from (Line(f"{name}, line {number}", line) for number, line in lines if line)


def line_of(said: dict[str, Any], where: str) -> Line:
    """Return the text and the label under the keys of a row or an object; raise DocumentError without."""
    text = said.get("text")
    if not isinstance(text, str):
        raise DocumentError(
            f"{where}: expected a text under 'text', got {', '.join(map(str, said)) or 'nothing'}",
            remedy="Name the column or key of the texts `text`, that of their labels `label`.",
        )
    if not text.strip():
        raise DocumentError(f"{where}: expected a text, got none", remedy="Remove the line or fill it.")
    filled = (said[key] for key in LABEL_KEYS if said.get(key) is not None and str(said[key]).strip())
    label = next(filled, None)
    if label is not None and type(label) not in (str, int):
        raise DocumentError(
            f"{where}: label: expected text or a whole number, got {label!r}", remedy=f"Write {EXAMPLE}"
        )
    return Line(where, text, None if label is None else str(label))


def _rows(said: str, name: str) -> Iterator[Line]:
    # Only a line feed ends a row; str.splitlines knows more that a text may hold.
    rows = csv.DictReader((line + "\n" for line in said.removesuffix("\n").split("\n")), strict=True)
    try:
        for row in rows:
            yield line_of(row, f"{name}, line {rows.line_num}")
    except csv.Error as error:
        raise DocumentError(
            f"{name}, line {rows.reader.line_num}: not CSV: {error}",
            remedy="Quote texts that hold quotes.",
        ) from error

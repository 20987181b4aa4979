"""Tables, progress and JSON; the one file that knows colour.

Standard output carries data; progress and remarks go to standard error.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

WIDE = 180
"""Columns where there is no terminal: nothing is folded for want of a width nobody asked for."""
FOLDED = 16
"""Letters that the last column of a table must have before it is folded."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else WIDE)

GOOD = {"committed", "already", "succeeded", "healthy", "pass", "ok", "yes"}
KILO = 1000
_DIGEST = re.compile(r"sha256:([0-9a-f]{12})[0-9a-f]{52}")
BAD = {"failed", "went back", "stuck", "lost", "unreachable", "refused", "unhealthy", "missing", "no"}


class Form(str, Enum):  # noqa: UP042 - typer wants a str to show choices
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Form, typer.Option("--output", "-o", help="table for people, json for machines.")]


def say(text: str) -> None:
    """Remark something to whoever looks on."""
    err.print(text, markup=False, soft_wrap=True)


def emit(value: Any) -> None:
    """Print data as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], on: Console = out) -> None:
    """Print a table; cells that name a state are coloured. No cell is cut off.

    Where the terminal is too narrow for its columns, each row is a block of its own, a line for each cell.
    """
    cells = [[cell(value) for value in row] for row in rows]
    if on.width < _width(columns, cells):
        return _stack(columns, cells, on)
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in drawn.columns:
        column.overflow = "fold"
    for column in drawn.columns[:-1]:
        column.no_wrap = True
    for row in cells:
        drawn.add_row(*row)
    return on.print(drawn)


def _width(columns: Sequence[str], cells: Sequence[Sequence[Text]]) -> int:
    """Return how wide a table must be to be read: its last column may be folded."""
    widest = [
        max(len(head), *(row[place].cell_len for row in cells)) if cells else len(head)
        for place, head in enumerate(columns)
    ]
    return sum(widest[:-1]) + min(widest[-1], FOLDED) + 2 * (len(columns) - 1)


def _stack(columns: Sequence[str], cells: Sequence[Sequence[Text]], on: Console) -> None:
    indent = max(map(len, columns)) + 4
    for row in cells:
        on.print(Text.assemble((row[0].plain, "bold")))
        for head, value in zip(columns[1:], row[1:], strict=True):
            on.print(Text.assemble((f"  {head}".ljust(indent), "dim"), value), soft_wrap=True)


def cell(value: Any) -> Text:
    """Return a value as it stands in a table."""
    text = "-" if value is None or value == "" else str(value)
    style = "green" if text in GOOD else "red" if text in BAD else ""
    return Text(text, style=style)


def progress(*, transient: bool = False) -> Progress:
    """Return a bar for long work, on standard error; where there is no terminal, it shows nothing.

    A transient one goes when the work is done.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=err,
        transient=transient,
        disable=not err.is_terminal,
    )


@contextmanager
def bar(first: str = "reading the model") -> Iterator[Callable[[str, float], None]]:
    """Show what is being done and its share; where there is no terminal, a line for each new thing."""
    with progress(transient=True) as shown:
        row = shown.add_task(first, total=1.0, note="")
        said: list[str] = []

        def told(doing: str, share: float) -> None:
            # A task that is complete stops its clock, and another step is to come.
            shown.update(row, description=doing, completed=min(share, 0.999))
            if not err.is_terminal and doing not in said:
                say(doing)
                said.append(doing)

        yield told


def counter(what: str) -> Progress:
    """Return a bar that counts things."""
    return Progress(
        SpinnerColumn(), TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), console=err,
        transient=True, disable=not err.is_terminal,
    )  # fmt: skip


def size(count: float) -> str:
    """Return bytes for people: 1.5 MB, 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < KILO or unit == "GB":
            break
        count /= KILO
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"


def brief(text: str) -> str:
    """Return a text for people: of digests in it the first twelve digits."""
    return _DIGEST.sub(r"\1", text)


def ago(seconds: float) -> str:
    """Return a span for people: 45 s, 12 min, 3 h, 5 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"

"""Tables, progress and JSON; the one file that knows colour.

Standard output carries data; progress and remarks go to standard error.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.padding import Padding
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

from slmops.profile.sizes import decimal_size

WIDE = 180
"""Columns where there is no terminal and COLUMNS does not say: nothing is folded for want of a width."""
FOLDED = 16
"""Letters that a column must have before it is folded."""
EASY = 24
"""Letters that the last column, which tends to be words, is left when it is folded, before others are."""
GAP = 2
"""Between columns."""
NOTHING = "-"
"""What stands in a cell where there is nothing to say."""


def _console(stream: TextIO, *, stderr: bool) -> Console:
    asked = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(stderr=stderr, highlight=False, width=None if asked else WIDE)


out = _console(sys.stdout, stderr=False)
err = _console(sys.stderr, stderr=True)

size = decimal_size
GOOD = {"committed", "already", "succeeded", "healthy", "pass", "ok", "yes"}
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

    Where it is too wide, columns that are empty in every row go; then the last column is folded, and others
    that are long, at words; then the last column stands beneath its row. Where even that is too wide, each
    row is a block of its own, a line for each cell.
    """
    cells = [[cell(value) for value in row] for row in rows]
    heads = list(columns)
    if cells and on.width < _wide(_widths(heads, cells)):
        kept = [p for p in range(len(heads)) if p == 0 or any(row[p].plain != NOTHING for row in cells)]
        heads, cells = [heads[place] for place in kept], [[row[place] for place in kept] for row in cells]
    widths = _widths(heads, cells)
    fitted = _fit(widths, _least(heads, cells), on.width)
    if fitted is not None:
        return _draw(heads, cells, fitted, on)
    if widths[-1] > EASY:
        fitted = _fit(widths[:-1], _least(heads, cells)[:-1], on.width)
    return _stack(heads, cells, on) if fitted is None else _hang(heads, cells, fitted, on)


def _widths(heads: Sequence[str], cells: Sequence[Sequence[Text]]) -> list[int]:
    return [max(len(head), *(row[place].cell_len for row in cells), 0) for place, head in enumerate(heads)]


def _wide(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _least(heads: Sequence[str], cells: Sequence[Sequence[Text]]) -> list[int]:
    """Return how narrow each column may be: the last one to `FOLDED`, others so that words stay whole."""
    least = []
    for place, head in enumerate(heads[:-1]):
        words = [*head.split(), *(word for row in cells for word in row[place].plain.split())]
        least.append(max(FOLDED, *map(len, words)))
    return [*least, FOLDED]


def _fit(widths: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Return the widths of columns that fit, the last one folded first and then the widest; None: none do."""
    found, last = list(widths), len(widths) - 1
    while _wide(found) > room:
        able = [place for place, width in enumerate(found) if width > least[place]]
        if not able:
            return None
        found[max(able, key=lambda place: (place == last and found[place] > EASY, found[place]))] -= 1
    return found


def _draw(
    heads: Sequence[str],
    cells: Sequence[Sequence[Text]],
    widths: Sequence[int],
    on: Console,
    *,
    headed: bool = True,
) -> None:
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_header=headed)
    for head, width in zip(heads, widths, strict=True):
        drawn.add_column(head, width=width, overflow="fold")
    for row in cells:
        drawn.add_row(*row)
    on.print(drawn)


def _hang(heads: Sequence[str], cells: Sequence[Sequence[Text]], widths: Sequence[int], on: Console) -> None:
    """Print a table in which the last cell of a row, if there is something in it, stands beneath it."""
    for place, row in enumerate(cells):
        _draw(heads[:-1], [row[:-1]], widths, on, headed=place == 0)
        if row[-1].plain != NOTHING:
            on.print(Padding(row[-1], (0, 0, 0, GAP)))


def _stack(columns: Sequence[str], cells: Sequence[Sequence[Text]], on: Console) -> None:
    indent = max(map(len, columns)) + 4
    for row in cells:
        on.print(Text.assemble((row[0].plain, "bold")))
        for head, value in zip(columns[1:], row[1:], strict=True):
            on.print(Text.assemble((f"  {head}".ljust(indent), "dim"), value), soft_wrap=True)


def cell(value: Any) -> Text:
    """Return a value as it stands in a table."""
    text = NOTHING if value is None or value == "" else str(value)
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


def brief(text: str) -> str:
    """Return a text for people: of digests in it the first twelve digits."""
    return _DIGEST.sub(r"\1", text)


def opens(at: float, now: float) -> str:
    """Return when a window opens, for people (unix seconds): 03:00 UTC, in 13 h."""
    form = "%H:%M UTC" if at - now < timedelta(days=1).total_seconds() else "%a %d %b %H:%M UTC"
    return f"{time.strftime(form, time.gmtime(at))}, in {ago(at - now)}"


def ago(seconds: float) -> str:
    """Return a span for people: 45 s, 12 min, 3 h, 5 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"

"""A rollout as it stands, drawn for a terminal: waves, who is under way, counts, bytes, what happened last.

Rows of history and the moment in, something to print out: it reads no clock and no file. Who watches
history draws with it, and who drives a rollout can.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slmops.cli.render import size
from slmops.rollout import progress
from slmops.rollout.history import Entry, Happening, Line
from slmops.rollout.machine import ENDS, STOPS, State
from slmops.rollout.report import state_in, wave_name
from slmops.rollout.tally import ENDED, Sort, sort_of, tally
from slmops.rollout.timeline import elapsed

STYLES: Final = {
    Sort.GOOD: "green",
    Sort.BAD: "red",
    Sort.UNKNOWN: "yellow",
    Sort.OUT: "bright_black",
    Sort.BUSY: "blue",
    Sort.LEFT: "bright_black",
}
GREEN: Final = frozenset({State.SUCCEEDED, State.STAGED})
RED: Final = frozenset({State.RETURNED, State.STUCK, State.REFUSED, State.ABORTED})
STANDING: Final = {
    state.value: "green" if state in GREEN else "red" if state in RED else "yellow" for state in ENDS | STOPS
}
"""Ends and stops of a rollout."""
BAR: Final = 28
FULL, EMPTY = "━", "─"
LATEST: Final = 5
LEAST: Final = 3
"""Devices under way that are shown however small the terminal is."""


def draw(
    entry: Entry, lines: Sequence[Line], events: Sequence[Happening], now: float, *, height: int = 30
) -> RenderableType:
    """Return the picture of a rollout at one moment, in about `height` rows."""
    waves = [line for line in lines if line.wave]
    busy = [line for line in lines if sort_of(line.state) is Sort.BUSY or line.state == "deferred"]
    room = max(LEAST, height - entry.waves - LATEST - 9)
    parts: list[RenderableType] = [_head(entry, now), Text(""), _waves(entry, waves)]
    if busy:
        parts += [Text(""), _busy(busy, room, now)]
    parts += [Text(""), _sums(entry, lines, now)]
    if events:
        parts += [Text(""), *(happened(event) for event in events[-LATEST:])]
    return Group(*parts)


def happened(event: Happening) -> Text:
    """Return what happened as a line: when, to whom, what."""
    state = state_in(event.what) if event.device else None
    style = STYLES[sort_of(state)] if state else "bold"
    word = state or event.what
    rest = event.what.removeprefix(word).strip()
    return Text.assemble(
        (f"{clock(event.at)}  ", "dim"),
        (f"{event.device or 'rollout':<16}  ", ""),
        (word, style),
        (f"  {rest}" if rest else "", ""),
        no_wrap=True,
        overflow="ellipsis",
    )


def bar(states: Iterable[str], width: int = BAR) -> Text:
    """Return a bar in which every sort of device there is has its part, in the order of `Sort`."""
    counts = {sort: count for sort, count in tally(states).items() if count}
    drawn = Text()
    for sort, cells in apportion(counts, width).items():
        drawn.append((EMPTY if sort is Sort.LEFT else FULL) * cells, STYLES[sort])
    return drawn


def apportion(counts: Mapping[Sort, int], width: int) -> dict[Sort, int]:
    """Return how many of `width` cells each gets: by its share, one at least, together all of them."""
    whole = sum(counts.values())
    cells = {sort: max(1, width * count // whole) for sort, count in counts.items()}
    if cells:
        # What is left over, or was taken too much, is the largest one's.
        cells[max(counts, key=lambda sort: counts[sort])] += width - sum(cells.values())
    return cells


def counted(lines: Iterable[Line]) -> str:
    """Return how many devices are in which state, for people: 9 committed, 1 went back, 2 sending."""
    states = sorted((line.state for line in lines), key=_rank)
    return ", ".join(f"{len(list(its)):,} {state}" for state, its in groupby(states))


def clock(at: float) -> str:
    """Return the time of day, here."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def _head(entry: Entry, now: float) -> RenderableType:
    until = now if entry.state not in STANDING else entry.changed
    grid = _grid(1)
    standing = (entry.state, f"bold {STANDING.get(entry.state, 'blue')}")
    took = (f"  {elapsed(round(max(0.0, until - entry.started)))}", "dim")
    grid.add_row(
        Text.assemble((f"rollout {entry.id}  ", "dim"), (entry.release, "bold"), f" to {entry.fleet}"),
        Text.assemble(standing, took),
    )
    return grid


def _waves(entry: Entry, lines: Sequence[Line]) -> RenderableType:
    grid = _grid(None)
    for number in range(1, entry.waves + 1):
        states = [line.state for line in lines if line.wave == number]
        done = sum(sort_of(state) in ENDED for state in states)
        name = f"wave {number}  {wave_name(entry, number)}".rstrip()
        here = number == entry.wave + 1
        grid.add_row(
            Text(name, style="bold" if here else "dim"),
            bar(states),
            Text(f"{done:,}/{len(states):,}", justify="right"),
            _remark(entry, number, states),
        )
    return grid


def _remark(entry: Entry, number: int, states: Sequence[str]) -> Text:
    """Say what a wave has come to, in a word or two."""
    sorts = tally(states)
    said = [
        (f"{sorts[sort]:,} {sort.value}", STYLES[sort]) for sort in (Sort.BAD, Sort.UNKNOWN) if sorts[sort]
    ]
    if number <= entry.wave:
        said.insert(0, ("passed", "green"))
    elif number == entry.wave + 1 and entry.state in ("soaking", "returning", "holding", "paused"):
        said.insert(0, (entry.state, STANDING.get(entry.state, "blue")))
    return Text("  ").join(Text(word, style=style) for word, style in said)


def _busy(busy: Sequence[Line], room: int, now: float) -> RenderableType:
    grid = _grid(None)
    first = sorted(busy, key=lambda line: (-progress.share(line), line.device))
    for line in first[:room]:
        done = progress.share(line)
        cells = round(done * BAR / 2)
        since = now - line.entered.get(line.state, line.changed)
        grid.add_row(
            Text(line.device),
            Text(line.state, style="blue"),
            Text.assemble((FULL * cells, "blue"), (EMPTY * (BAR // 2 - cells), "bright_black")),
            Text(doing(line.doing), style="dim"),
            Text(elapsed(round(max(0.0, since))), style="dim", justify="right"),
        )
    if first[room:]:
        grid.add_row(Text(f"+ {len(first) - room:,} more", style="dim"))
    return grid


def doing(said: Mapping[str, Any]) -> str:
    """Return progress within a state, for people."""
    if said.get("whole"):
        return f"{said.get('what', 'file')}: {size(said.get('done', 0))} of {size(said['whole'])}"
    if said.get("step") == "golden":
        return f"golden prompt {said.get('number')} of {said.get('of')}"
    if said.get("step") == "cut":
        return f"the link broke; trying again ({said.get('times')} of {said.get('most')})"
    return str(said.get("step", ""))


def _sums(entry: Entry, lines: Sequence[Line], now: float) -> RenderableType:
    went, rest = progress.sent(lines), progress.rest(entry, lines, now)
    rate = progress.rate(lines, now) if entry.state not in STANDING else 0.0
    said = [f"{size(went)} sent"] if went else []
    said += [f"{size(rate)}/s"] if rate >= 1 else []
    said += [f"about {elapsed(_rounded(rest))} left"] if rest is not None else []
    grid = _grid(1)
    grid.add_row(Text(counted(lines)), Text(", ".join(said), style="dim"))
    return grid


def _rounded(seconds: float) -> float:
    """Return a foretold span without figures that nobody can know."""
    step = 5 if seconds < 60 else 60 if seconds < 3600 else 600  # noqa: PLR2004 - a minute, an hour
    return max(step, round(seconds / step) * step)


def _grid(ratio: int | None) -> Table:
    """Return a table without lines; with a `ratio` its last column stands at the right edge."""
    grid = Table.grid(padding=(0, 2), expand=ratio is not None)
    if ratio is not None:
        grid.add_column(ratio=ratio)
        grid.add_column(justify="right", no_wrap=True)
    return grid


def _rank(state: str) -> tuple[int, str]:
    return list(Sort).index(sort_of(state)), state

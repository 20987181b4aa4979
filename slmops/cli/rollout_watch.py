"""slmops rollout watch: a rollout as it goes, read from history, whoever drives it and wherever it began.

Law: watching changes nothing, and ends when the rollout has ended, has stopped, or is driven by nobody.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import typer
from rich.live import Live

from slmops.cli.render import Form, Output, out, say
from slmops.cli.rollout_choice import Number, find, opened
from slmops.cli.rollout_view import counted, draw, happened
from slmops.cli.take_back import left
from slmops.rollout.history import Entry, Happening, History, Line
from slmops.rollout.machine import DRIVEN, EXIT_CODES, STOPS, State

GOING = frozenset(state.value for state in DRIVEN)
CODES = {state.value: code for state, code in EXIT_CODES.items()}
PERIOD = 0.5
"""Seconds between two looks; more where a look itself takes long."""
PATIENCE = 3
"""Looks in a row that find no driver before it is believed that there is none."""
KEPT = 50
"""Latest events that a picture may need."""

See = Callable[[Entry, list[Happening]], None]


def watch(number: Number = None, output: Output = Form.TABLE) -> None:
    """Watch a rollout until it ends or stops: a live picture at a terminal, plain lines elsewhere.

    With -o json every event is an object on a line of its own, from the first one on. Ctrl-C ends the
    watching, never the rollout. Exit codes are those of deploy, and 6 where nobody drives it any more.
    """
    with opened() as history:
        entry = follow(history, find(history, number), output)
        code = exit_code(history, entry)
    raise typer.Exit(code)


def follow(history: History, entry: Entry, output: Form, since: int | None = None) -> Entry:
    """Show a rollout until nobody drives it any more; return how it stands then.

    `since` is the id of the event that is known; without one, plain lines begin now, and objects with the
    first event.
    """
    try:
        if output is Form.JSON:
            entry = _each_look(history, entry, _print_objects, since or 0)
        elif out.is_terminal:
            entry = _live(history, entry)
        else:
            entry = _plain(history, entry, last_event(history, entry) if since is None else since)
    except KeyboardInterrupt:
        say(f"Rollout {entry.id} goes on without being watched.")
        return entry
    if output is Form.TABLE:
        say_how_to_go_on(entry)
    return entry


def exit_code(history: History, entry: Entry) -> int:
    """Return the exit code for where a rollout stands; that of a pause where whoever drove it is gone."""
    if entry.state in GOING:
        return 0 if history.driver(entry.id) is not None else EXIT_CODES[State.PAUSED]
    return CODES[entry.state]


def way_on(entry: Entry) -> str:
    """Return the command that goes on with a rollout that nobody drives."""
    if left(entry) is not None:
        return "slmops rollback FLEET.yaml"
    return f"slmops rollout {'promote' if entry.state == State.HOLDING.value else 'resume'} {entry.id}"


def last_event(history: History, entry: Entry) -> int:
    """Return the id of the last event of a rollout; 0 before the first."""
    return max((event.id for event in history.events(entry.id)), default=0)


def say_how_to_go_on(entry: Entry) -> None:
    """Remark what can be done about a rollout that has not ended and that nobody drives."""
    if entry.state in GOING:
        say(f"Nobody drives rollout {entry.id} now: it was killed, or lost its machine.")
    if entry.state in GOING or entry.state in {state.value for state in STOPS}:
        also = "" if left(entry) is not None else f", or slmops rollout abort {entry.id}"
        say(f"next  {way_on(entry)}{also}")


def _each_look(history: History, entry: Entry, see: See, after: int = 0) -> Entry:
    """Look again and again and let `see` what is new, until nobody drives the rollout any more."""
    missed = 0
    while True:
        began = time.monotonic()
        entry = find(history, entry.id)
        missed = 0 if history.driver(entry.id) is not None else missed + 1
        fresh = history.events(entry.id, after)
        after = fresh[-1].id if fresh else after
        see(entry, fresh)
        if entry.state not in GOING or missed >= PATIENCE:
            return entry
        time.sleep(max(PERIOD, 4 * (time.monotonic() - began)))


def _live(history: History, entry: Entry) -> Entry:
    latest: list[Happening] = []
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:

        def see(now: Entry, fresh: list[Happening]) -> None:
            latest[:] = [*latest, *fresh][-KEPT:]
            lines = history.devices(now.id)
            live.update(draw(now, lines, latest, time.time(), height=out.height), refresh=True)

        return _each_look(history, entry, see)


def _plain(history: History, before: Entry, since: int) -> Entry:
    """Print where it stands, then what happens, then where it stands at last."""
    _print_standing(before, history.devices(before.id))
    entry = _each_look(history, before, _print_lines, since)
    if entry.state != before.state:
        _print_standing(entry, history.devices(entry.id))
    return entry


def _print_standing(entry: Entry, lines: list[Line]) -> None:
    wave = f"wave {min(entry.wave + 1, entry.waves)} of {entry.waves}"
    text = f"rollout {entry.id}: {entry.release} to {entry.fleet}, {entry.state}, {wave}: {counted(lines)}"
    out.print(text, markup=False, soft_wrap=True)


def _print_lines(_entry: Entry, fresh: list[Happening]) -> None:
    for event in fresh:
        out.print(happened(event), soft_wrap=True)


def _print_objects(entry: Entry, fresh: list[Happening]) -> None:
    for event in fresh:
        sys.stdout.write(json.dumps({"rollout": entry.id, **asdict(event)}) + "\n")
    sys.stdout.flush()

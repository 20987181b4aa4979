"""slmops rollout pause, resume, promote, abort: who drives it is told, or this process drives it on."""

from enum import Enum
from typing import Annotated, NoReturn

import typer

from slmops.cli.auditing import audited, note, who
from slmops.cli.driving import drive_on
from slmops.cli.options import Yes, ask_first
from slmops.cli.render import Form, Output, say
from slmops.cli.rollout_choice import Number, find, opened
from slmops.cli.rollout_watch import GOING, exit_code, follow, last_event, way_on
from slmops.errors import LockedError, UsageError
from slmops.rollout.history import Entry, History
from slmops.rollout.machine import ENDS, State

ENDED = frozenset(state.value for state in ENDS)
HOLDING = State.HOLDING.value


class Back(str, Enum):  # noqa: UP042 - typer wants a str to show choices
    """Which devices go back when a rollout is aborted."""

    NONE = "none"
    WAVE = "wave"
    ALL = "all"


WISHES = {Back.NONE: "abort", Back.WAVE: "abort wave", Back.ALL: "abort all"}


@audited("rollout pause")
def pause(number: Number = None, output: Output = Form.TABLE) -> None:
    """Pause a rollout: devices on trial end it, no other begins; `slmops rollout resume` goes on.

    Exit codes: 6 paused, and those of deploy where it ended before it could pause.
    """
    with opened() as history:
        entry = find(history, number)
        note(rollout=entry.id)
        if history.driver(entry.id) is None:
            _turn_down_pause(entry)
        code = exit_code(history, _ask_driver(history, entry, "pause", output))
    raise typer.Exit(code)


@audited("rollout resume")
def resume(number: Number = None, output: Output = Form.TABLE) -> None:
    """Go on with a rollout that was paused, interrupted or killed: devices are asked where they stand.

    Exit codes are those of deploy.
    """
    with opened() as history:
        entry = _stopped(history, number)
    if entry.state == HOLDING:
        raise UsageError(
            f"rollout {entry.id} passed a wave and waits for your word",
            remedy=f"slmops rollout promote {entry.id}",
        )
    raise typer.Exit(drive_on(entry.id, do="resume", output=output).exit_code)


@audited("rollout promote")
def promote(number: Number = None, output: Output = Form.TABLE) -> None:
    """Let a rollout that passed a wave begin the next one (strategy `advance: manual`).

    Exit codes are those of deploy.
    """
    with opened() as history:
        entry = _stopped(history, number)
    if entry.state != HOLDING:
        raise UsageError(
            f"rollout {entry.id} is {entry.state} and holds at no wave",
            remedy=f"Go on with it: slmops rollout resume {entry.id}.",
        )
    raise typer.Exit(drive_on(entry.id, do="promote", output=output).exit_code)


@audited("rollout abort")
def abort(
    number: Number = None,
    back: Annotated[
        Back,
        typer.Option(help="Which devices go back to what they served: none, those of the wave, or all."),
    ] = Back.NONE,
    yes: Yes = False,
    output: Output = Form.TABLE,
) -> None:
    """Abort a rollout: devices on trial end it, no other begins, and it cannot be resumed.

    Exit codes: 5 aborted or gone back, 1 a device is stuck, and those of deploy where it ended before.
    """
    with opened() as history:
        entry = _unended(history, number)
        note(rollout=entry.id)
        if not yes:
            goes = {Back.NONE: "no device goes", Back.WAVE: "its wave goes", Back.ALL: "all its devices go"}
            ask_first(f"Abort rollout {entry.id} ({entry.release} to {entry.fleet}; {goes[back]} back)?")
        if history.driver(entry.id) is not None:
            entry = _ask_driver(history, entry, WISHES[back], output)
        # A driver that was killed before it heard leaves the word undone.
        if entry.state in ENDED or history.driver(entry.id) is not None:
            raise typer.Exit(exit_code(history, entry))
    raise typer.Exit(drive_on(entry.id, do="abort", back=back.value, output=output).exit_code)


def _unended(history: History, number: int | None) -> Entry:
    entry = find(history, number)
    if entry.state in ENDED:
        raise UsageError(
            f"rollout {entry.id} has ended: {entry.state}",
            remedy=f"What became of it: slmops rollout show {entry.id}. Go back: slmops rollback FLEET.yaml.",
        )
    return entry


def _stopped(history: History, number: int | None) -> Entry:
    """Return a rollout that nobody drives and that has not ended."""
    entry = _unended(history, number)
    note(rollout=entry.id)
    driver = history.driver(entry.id)
    if driver is not None:
        raise LockedError(
            f"rollout {entry.id} is driven by {driver.holder}, process {driver.pid}",
            remedy=f"Watch it: slmops rollout watch {entry.id}.",
        )
    return entry


def _turn_down_pause(entry: Entry) -> NoReturn:
    if entry.state in GOING:
        why, next_ = "whoever drove it was killed", f"Go on with it: {way_on(entry)}."
    elif entry.state in ENDED:
        why, next_ = f"it has ended: {entry.state}", f"What became of it: slmops rollout show {entry.id}."
    else:
        why, next_ = f"it is {entry.state}", f"Go on with it: {way_on(entry)}."
    raise UsageError(f"nobody drives rollout {entry.id}; {why}", remedy=next_)


def _ask_driver(history: History, entry: Entry, what: str, output: Form) -> Entry:
    """Leave word for who drives a rollout, and watch until it was heard and done; return how it stands."""
    since = last_event(history, entry)
    history.wish(entry.id, what, who())
    say(f"Rollout {entry.id} is asked to {what.partition(' ')[0]}; devices on trial end it, no other begins.")
    return follow(history, entry, output, since)

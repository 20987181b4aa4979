"""Which rollout is meant, and the history it stands in."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from slmops.cli import home
from slmops.errors import UsageError
from slmops.rollout.history import Entry, History
from slmops.rollout.machine import State

RECENT = 50
"""Rollouts among which the one that is meant is looked for."""
Number = Annotated[
    int | None,
    typer.Argument(help="Its number; without one, that which goes on, or the latest.", min=1, max=2**63 - 1),
]


@contextmanager
def opened() -> Iterator[History]:
    """Open the operator's history."""
    with closing(History(home.history())) as history:
        yield history


def find(history: History, number: int | None) -> Entry:
    """Return the rollout that is meant; raise UsageError where there is none."""
    entry = history.find(number) if number is not None else _latest(history)
    if entry is None and number is None:
        raise UsageError("there was no rollout yet", remedy="slmops deploy FLEET.yaml --release NAME:VERSION")
    if entry is None:
        raise UsageError(f"there is no rollout {number}", remedy="Run `slmops rollout list`.")
    return entry


def _latest(history: History) -> Entry | None:
    """Return the rollout that is driven, else the latest that was not refused at once, else the latest."""
    entries = history.rollouts(RECENT)
    driven = [entry for entry in entries if history.driver(entry.id) is not None]
    begun = [entry for entry in entries if entry.state != State.REFUSED.value]
    return next(iter([*driven, *begun, *entries]), None)

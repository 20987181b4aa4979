"""Which rollout is meant, and the history it stands in."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from slmops.cli import home
from slmops.errors import UsageError
from slmops.rollout.history import Entry, History

Number = Annotated[
    int | None,
    typer.Argument(help="The rollout's number; without one, the latest.", min=1, max=2**63 - 1),
]


@contextmanager
def opened() -> Iterator[History]:
    """Open the operator's history."""
    with closing(History(home.history())) as history:
        yield history


def find(history: History, number: int | None) -> Entry:
    """Return the rollout that is meant; raise UsageError where there is none."""
    entry = history.find(number)
    if entry is None:
        raise UsageError("there is no such rollout", remedy="Run `slmops rollout list`.")
    return entry

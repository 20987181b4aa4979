"""A request's way to a worker and its answer's way back: a turn, the asking, and again if that was lost.

It does not know HTTP. What a worker says is passed on unread.

Laws: work whose listener has left is cancelled; who is slow to take an answer holds no worker up; a request
whose worker ends before anything was passed on is asked once more, of whoever answers then; after that it is
refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from slmops.daemon.desk import RETRY_SECONDS, Desk
from slmops.daemon.protocol import Done, Kind, Piece
from slmops.daemon.refusal import NOT_READY, SERVER_ERROR, RefusedError, WorkerLostError
from slmops.daemon.tend import Worker

TRIES = 2


@dataclass(frozen=True)
class Errand:
    """What is to be asked, and of whom."""

    kind: Kind
    body: bytes
    answer: str
    """The answer's id."""
    created: int
    who: str
    """Whose turn it counts as."""
    cost: float
    """About how many tokens it takes."""
    target: Callable[[], Worker | None]
    """See `desk.Target`."""
    sticky: str
    """What keeps requests of one user with one version."""


async def relay(desk: Desk, errand: Errand, begins: Callable[[Worker], None]) -> AsyncGenerator[Piece | Done]:
    """Yield what the worker says; `begins` is told which one it is, each time. Raise RefusedError."""
    for attempt in range(1, TRIES + 1):
        passed = False
        async with desk.turn(errand.who, errand.cost, errand.target, seated=attempt > 1) as turn:
            worker = cast("Worker", turn.room)
            begins(worker)
            asking = worker.ask(errand.kind, errand.body, errand.answer, errand.created, turn.end)
            try:
                async with aclosing(asking):
                    async for said in asking:
                        passed = passed or bool(said.data)
                        yield said
            except WorkerLostError as lost:
                if passed:
                    raise RefusedError(SERVER_ERROR, str(lost), reason="worker_lost") from lost
                if attempt == TRIES:
                    raise RefusedError(
                        NOT_READY, str(lost), reason="worker_lost", retry_after=RETRY_SECONDS
                    ) from lost
            else:
                return

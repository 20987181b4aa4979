"""The one place where work is computed: a thread, and a bounded line in front of it.

It does not know what the work is. The event loop never waits for a computation; pieces come to it
as they are made.

Laws: one work at a time, in the order they came; at most `seats` wait, the next is refused at once;
work whose listener has left stops at its next step, or never begins.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from slmops.daemon.refusal import NOT_READY, TOO_MANY, RefusedError

SEATS = 16
RETRY_SECONDS = 1
T = TypeVar("T")


class Desk:
    """A thread that computes, and those who wait for it."""

    def __init__(self, seats: int = SEATS) -> None:
        self._seats = seats
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._waiting: set[object] = set()
        self._open: set[asyncio.Queue[Any]] = set()
        """Where listeners wait for their next piece."""
        self._stopped = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    async def run(self, work: Callable[[], T]) -> T:
        """Compute `work` in its turn, whoever waits, and return what it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def pieces(self, work: Callable[[Callable[[], bool]], Iterator[T]]) -> AsyncGenerator[T]:
        """Yield what `work` yields; raise RefusedError when nobody else may wait.

        `work` is given a function that says whether the listener has gone, which it is to ask often.
        """
        if len(self._waiting) >= self._seats:
            raise RefusedError(
                TOO_MANY,
                f"{self._seats} requests are waiting already",
                reason="queue_full",
                retry_after=RETRY_SECONDS,
            )
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[T | None] = asyncio.Queue()
        gone, ticket = threading.Event(), object()

        def compute() -> None:
            loop.call_soon_threadsafe(self._waiting.discard, ticket)
            try:
                for piece in work(gone.is_set):
                    loop.call_soon_threadsafe(made.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(made.put_nowait, None)

        self._waiting.add(ticket)
        self._open.add(made)
        computed = loop.run_in_executor(self._thread, compute)
        try:
            while (piece := await made.get()) is not None:
                yield piece
            if self._stopped:
                raise RefusedError(
                    NOT_READY, "the daemon is stopping", reason="stopping", retry_after=RETRY_SECONDS
                )
            await computed
        finally:
            self._waiting.discard(ticket)
            self._open.discard(made)
            gone.set()
            computed.cancel()

    def stop(self) -> None:
        """Break off all work, begun or not; its listeners get a RefusedError."""
        self._stopped = True
        for made in self._open:
            made.put_nowait(None)
        self._thread.shutdown(wait=False, cancel_futures=True)

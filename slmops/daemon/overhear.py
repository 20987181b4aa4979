"""Overhear what a process writes to its standard error, line by line, for as long as it lives and a moment.

asyncio would give it a pipe too, but takes a process for ended only when that pipe has: a child that the
process left behind keeps it open for as long as it likes. Hence a pipe of our own. It does not know whose
words these are.

Law: for the end of the words nobody waits longer than `MOMENT`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOMENT = 1.0
"""Seconds that last words are waited for."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""That a runtime writes whether its words go to a terminal or not."""


class Ear:
    """The end of a pipe that is listened at."""

    def __init__(self) -> None:
        """Make the pipe."""
        ours, self._theirs = os.pipe()
        self._pipe = open(ours, "rb", buffering=0)  # noqa: PTH123, SIM115 - it has no path; `_listen` closes it
        self._listening: asyncio.Future[None] | None = None

    @contextmanager
    def mouth(self) -> Iterator[int]:
        """Give the other end, for who is started within the block."""
        try:
            yield self._theirs
        except BaseException:
            self._pipe.close()
            raise
        finally:
            os.close(self._theirs)

    def listen(self, hear: Callable[[str], None]) -> None:
        """Tell `hear` each line."""
        self._listening = asyncio.ensure_future(self._listen(hear))

    async def close(self) -> None:
        """Hear the last words, and listen no more."""
        assert self._listening is not None  # noqa: S101 - it listens
        try:
            await asyncio.wait({self._listening}, timeout=MOMENT)
        finally:
            self._listening.cancel()

    async def _listen(self, hear: Callable[[str], None]) -> None:
        loop, stream = asyncio.get_running_loop(), asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), self._pipe)
        try:
            while line := await _line_of(stream):
                hear(COLOURS.sub("", line.decode("utf-8", "replace")).rstrip())
        finally:
            transport.close()


async def _line_of(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; of one that is too long, what of it there is room for."""
    try:
        return await stream.readline()
    except ValueError:
        return b"(a line too long to keep)\n"

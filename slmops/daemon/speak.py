"""The router's end of a worker's socket: what is said goes out, what is heard is told, and whether it hangs.

It does not know processes, requests or versions. Law: what cannot be read ends the line, and its worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from slmops.daemon.protocol import Pulse, Reader, ToRouter, ToWorker, frame
from slmops.errors import ModelError

STUCK = 300.0
"""Seconds of one computation after which a worker hangs: a slow board reads a long stride for a minute."""
log = logging.getLogger("slmops.daemon")


class Line(asyncio.Protocol):
    """A connection to one worker process."""

    def __init__(self, hear: Callable[[ToRouter], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self._reader: Reader[ToRouter] = Reader(ToRouter)
        self._hear = hear
        self._transport: asyncio.Transport | None = None
        self._pulse = Pulse(steps=0, busy=False, active=0)
        self._heard = self._moved = time.monotonic()

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio; what cannot be read ends the connection, and with it the worker."""
        self._heard = time.monotonic()
        try:
            for said in self._reader.feed(data):
                if isinstance(said, Pulse):
                    self._note(said)
                else:
                    self._hear(said)
        except ModelError:
            log.exception("a worker speaks nonsense")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio."""
        self.closed = True
        if not self.ended.done():
            self.ended.set_result(None)

    def say(self, said: ToWorker) -> None:
        """Send a message, unless the other end is gone."""
        if self._transport is not None and not self.closed:
            self._transport.write(frame(said))

    def hangs(self, now: float, silent: float) -> str:
        """Say why the worker hangs, or nothing; `silent` are the seconds that it may be so."""
        if now - self._heard > silent:
            return f"it has not answered for {now - self._heard:.0f} s"
        if self._pulse.busy and now - self._moved > STUCK:
            return f"it has been in one computation for {now - self._moved:.0f} s"
        return ""

    def _note(self, pulse: Pulse) -> None:
        if pulse.steps != self._pulse.steps or not pulse.busy:
            self._moved = time.monotonic()
        self._pulse = pulse

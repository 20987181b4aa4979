"""A link that misbehaves: a TCP proxy that delays, throttles, cuts, swallows, holds back, flips and resets.

It does not know what is said over it. Every property may be changed while connections are open; what counts
bytes counts those on their way to the target, and back.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress

PIECE = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket that answers with RST when it is closed."""
SLICES = 20
"""Pieces into which a second of a throttled link is cut."""
MOMENT = 0.02
"""Seconds between looks at a link that is held back."""


class Proxy:
    """Passes bytes between whoever connects to `port` and `target`, as badly as it is told to."""

    def __init__(self, target: int, cuts: Iterable[int] = ()) -> None:
        self.target = target
        self.cuts = list(cuts)
        """After how many bytes on their way to the target each next connection is cut."""
        self.flips: list[int] = []
        """Which byte on its way to the target has a bit flipped, for each next connection."""
        self.delay = 0.0
        """Seconds that every piece takes longer, each way."""
        self.rate: float | None = None
        """Bytes a second that go to the target, or come back, over one connection."""
        self.stalled = False
        """A black hole: what comes is swallowed, and nobody is told."""
        self.held = False
        """Nothing is passed on until it is no longer held, and nothing is lost."""
        self.sent = self.received = self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._pass_on, "127.0.0.1", 0), self._loop
        ).result()
        self.port = int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Close every connection there is, as a peer does that ends."""
        self._each(_shut)

    def reset(self) -> None:
        """Answer every connection there is with RST."""
        self._each(_reset)

    def half_close(self) -> None:
        """End what is said on every connection, both ways, and go on listening to it."""
        self._each(asyncio.StreamWriter.write_eof)

    def close(self) -> None:
        """Take no connection any more, cut those there are, and end."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for writer in list(self._open):
            _shut(writer)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _each(self, act: object) -> None:
        async def do() -> None:
            for writer in list(self._open):
                with suppress(OSError, RuntimeError):
                    act(writer)  # type: ignore[operator]

        asyncio.run_coroutine_threadsafe(do(), self._loop).result()

    async def _pass_on(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.connections += 1
        most = self.cuts.pop(0) if self.cuts else None
        flip = self.flips.pop(0) if self.flips else None
        try:
            far, there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            back.close()
            return
        self._open |= {back, there}
        ways = asyncio.gather(self._send(near, there, back, most, flip), self._receive(far, back))
        # Whoever is closed meanwhile leaves no word of what it cut short.
        with suppress(asyncio.CancelledError):
            await ways
        self._open -= {back, there}
        _shut(there)
        _shut(back)

    async def _send(
        self, near: asyncio.StreamReader, there: asyncio.StreamWriter, back: asyncio.StreamWriter,
        most: int | None, flip: int | None,
    ) -> None:  # fmt: skip
        """Pass on what goes to the target."""
        passed = 0
        with suppress(OSError):
            while piece := await self._piece(near):
                if most is not None:
                    piece = piece[: most - passed]
                if flip is not None and passed <= flip < passed + len(piece):
                    at = flip - passed
                    piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
                passed += len(piece)
                self.sent += len(piece)
                there.write(piece)
                await there.drain()
                if most is not None and passed >= most:
                    _shut(there)
                    _shut(back)
                    return
            if there.can_write_eof() and not there.is_closing():
                there.write_eof()

    async def _receive(self, far: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Pass on what comes from the target."""
        with suppress(OSError):
            while piece := await self._piece(far):
                self.received += len(piece)
                back.write(piece)
                await back.drain()
        # A target that has said its last is a connection that has ended.
        _shut(back)

    async def _piece(self, source: asyncio.StreamReader) -> bytes:
        """Return the next piece that is to be passed on, when it is due; nothing at the end."""
        while True:
            most = PIECE if self.rate is None else max(1, int(self.rate / SLICES))
            piece = await source.read(most)
            if self.rate is not None and piece:
                await asyncio.sleep(len(piece) / self.rate)
            if self.delay:
                await asyncio.sleep(self.delay)
            while self.held:  # noqa: ASYNC110 (a thread that knows no loop sets it)
                await asyncio.sleep(MOMENT)
            if not (self.stalled and piece):
                return piece


def _shut(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    plain: socket.socket | None = writer.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()

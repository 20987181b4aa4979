"""Clients that behave badly, until standard input closes: a process of its own.

    python bench/_unruly.py PORT CLIENTS SEED       at the end, one line of JSON: how often which status came

Some leave in the middle of an answer, some send what is no request, some send or read a byte now and then,
some connect and say nothing. What a server is to make of each is its own affair, as long as it is no 5xx.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from _load import request

PATH: Final = "/v1/completions"
ASKED: Final[dict[str, Any]] = {
    "prompt": "one two three four",
    "max_tokens": 48,
    "temperature": 0,
    "stream": True,
}
WRONG: Final[tuple[bytes, ...]] = (
    request(PATH, {**ASKED, "max_tokens": -1}),
    request(PATH, {**ASKED, "no_such_field": 1}),
    request(PATH, {**ASKED, "prompt": "a " * 100_000}),
    request(PATH, {**ASKED, "model": "no-such-model"}),
    request(PATH, {"prompt": {"a": []}}),
    request("/v1/chat/completions", {"messages": []}),
    request("/v1/nothing", {}),
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n{nope",
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n\xff\xfe\xfd",
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n{",
    b"DELETE /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is not HTTP\r\n\r\n",
)
LINGER: Final = 10.0
"""Seconds that a slow one goes on at most."""
Way = Callable[["Unruly"], Awaitable[None]]


class Unruly:
    """One client."""

    def __init__(self, port: int, lot: random.Random, seen: collections.Counter[str]) -> None:
        self._port, self._lot, self._seen = port, lot, seen

    async def misbehave(self) -> None:
        """Do one bad thing."""
        way: Way = self._lot.choice((Unruly.leave, Unruly.leave, Unruly.err, Unruly.err, Unruly.dawdle,
                                     Unruly.stutter, Unruly.gape))  # fmt: skip
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.timeout(LINGER):
                    await way(self)
            finally:
                self._seen[way.__name__] += 1
                self._writer.close()
        await asyncio.sleep(self._lot.uniform(0, 0.2))

    async def leave(self) -> None:
        """Ask, and be gone before the end."""
        self._writer.write(request(PATH, ASKED))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lot.uniform(0, 0.5)):
                await self._status()
                while await self._reader.read(4096):
                    pass
        self._writer.transport.abort()

    async def err(self) -> None:
        """Send what cannot be answered."""
        self._writer.write(self._lot.choice(WRONG))
        await self._status()

    async def dawdle(self) -> None:
        """Read an answer a byte at a time."""
        self._writer.write(request(PATH, ASKED))
        await self._status()
        while await self._reader.read(16):  # noqa: ASYNC110 - it is slow on purpose
            await asyncio.sleep(0.05)

    async def stutter(self) -> None:
        """Send a request a byte at a time."""
        for byte in request(PATH, ASKED):
            self._writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        await self._status()

    async def gape(self) -> None:
        """Say nothing, or begin to."""
        self._writer.write(request(PATH, ASKED)[: self._lot.randrange(40)])
        await asyncio.sleep(self._lot.uniform(0, 3))

    async def _status(self) -> None:
        line = await self._reader.readline()
        self._seen[line[9:12].decode(errors="replace") or "closed"] += 1


async def _run(port: int, clients: int, seed: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    seen: collections.Counter[str] = collections.Counter()

    async def one(number: int) -> None:
        client = Unruly(port, random.Random(seed * 1000 + number), seen)  # noqa: S311 - not a secret
        while not stop.is_set():
            await client.misbehave()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(clients)]
        await stop.wait()
        loop.remove_reader(sys.stdin.fileno())
        for task in tasks:
            task.cancel()
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(_run(*map(int, sys.argv[1:4])))

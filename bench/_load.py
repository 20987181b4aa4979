"""Clients that ask an OpenAI server for streams, many at a time, and note when what came: in a process apart.

    python bench/_load.py < SPEC.json        one line of JSON for each request that ended

SPEC: {"at": port or path of a socket, "jobs": [[body, ...] for each client], "path": "/v1/completions",
"on": true to begin anew at the end of the jobs until standard input closes}. Each client keeps a connection
and asks for one thing after another. It does not know what the servers are.

It costs little: a chunk is stamped and put aside, and looked into only until there is text in it; what it
says is read when its answer is over. Times are CLOCK_MONOTONIC, the same in every process.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO, cast

TEXT: Final = re.compile(rb'"(?:text|content)": ?"[^"]')
FINISH: Final = re.compile(rb'"finish_reason": ?"(\w+)"')
WRITTEN: Final = re.compile(rb'"completion_tokens": ?(\d+)')
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
HEAD_END: Final = b"\r\n\r\n"
OK: Final = 200
SHOWN: Final = 300
PATIENCE: Final = 240.0
"""Seconds for a whole answer; a server that gives none shall be told of, not waited for."""


@dataclass(frozen=True)
class Got:
    """What became of one request."""

    client: int
    sent: float
    status: int
    """Of HTTP; 0: no answer came."""
    first: float | None
    """When the first text came."""
    ended: float
    tokens: int
    """As the server counts them; 0 where it does not."""
    finish: str
    """Its reason to end; empty: it was cut."""
    error: str

    @property
    def good(self) -> bool:
        """Say whether a whole answer came."""
        return self.status == OK and bool(self.finish) and not self.error

    @property
    def wait(self) -> float:
        """Return the seconds to the first text."""
        return (self.first or self.ended) - self.sent


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = True
        self._transport: asyncio.Transport | None = None
        self._begin()

    def _begin(self) -> None:
        self.sent = time.monotonic()
        self.first: float | None = None
        self._parts: list[bytes] = []
        self._head = b""
        self._left: int | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, at: int | str, request: bytes) -> Got:
        """Send one request, over a new connection where the old one is gone; return what became of it."""
        loop, fresh = asyncio.get_running_loop(), self.lost
        self._begin()
        try:
            if fresh:
                if isinstance(at, int):
                    await loop.create_connection(lambda: self, "127.0.0.1", at)
                else:
                    await loop.create_unix_connection(lambda: self, at)
        except OSError as error:
            return self._got(time.monotonic(), str(error))
        cast("asyncio.Transport", self._transport).write(request)
        done, _ = await asyncio.wait({self._over}, timeout=PATIENCE)
        if not done:
            cast("asyncio.Transport", self._transport).abort()
            await self._over
            return self._got(time.monotonic(), f"no end within {PATIENCE:g} s")
        if self.lost and not fresh and not self._parts:
            # The server closed a connection that lay idle: every client begins anew then.
            return await self.ask(at, request)
        return self._got(time.monotonic(), "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport, self.lost = cast("asyncio.Transport", transport), False

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio."""
        self.lost = True
        self._end()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.first is None and TEXT.search(data):
            self.first = time.monotonic()
        self._parts.append(data)
        if self._left is None and not self._headed():
            return
        length = self._left or 0
        if length:
            if sum(map(len, self._parts)) >= length:
                self._end()
        elif data.endswith(LAST_CHUNK) or b"".join(self._parts[-8:]).endswith(LAST_CHUNK):
            self._end()

    def _headed(self) -> bool:
        """Read the head once it is whole: how long the answer is, 0 where it comes in chunks."""
        said = b"".join(self._parts)
        head, end, _ = said.partition(HEAD_END)
        if end:
            found = LENGTH.search(head)
            self._left = len(head) + len(end) + int(found[1]) if found else 0
        return bool(end)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _got(self, ended: float, error: str) -> Got:
        said = b"".join(self._parts)
        status = int(said[9:12]) if said.startswith(b"HTTP/1.") else 0
        finish, written = FINISH.findall(said), WRITTEN.findall(said)
        if not error and (status != OK or b'"error"' in said or not finish):
            error = said[-SHOWN:].decode(errors="replace") or "no answer"
        last = finish[-1].decode() if finish else ""
        return Got(
            self.number, self.sent, status, self.first, ended, int(written[-1]) if written else 0, last, error
        )


def request(path: str, body: dict[str, Any]) -> bytes:
    """Return the bytes of one POST."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def _run(spec: dict[str, Any]) -> None:
    stop = asyncio.Event()
    if spec.get("on"):
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), _stop, loop, stop)
    path = spec.get("path", "/v1/completions")

    async def one(number: int, jobs: Sequence[dict[str, Any]]) -> None:
        client, requests = Client(number), [request(path, body) for body in jobs]
        while True:
            for each in requests:
                got = await client.ask(spec["at"], each)
                print(json.dumps(asdict(got)), flush=bool(spec.get("on")))
                if stop.is_set():
                    return
            if not spec.get("on"):
                return

    await asyncio.gather(*(one(number, jobs) for number, jobs in enumerate(spec["jobs"])))


def _stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


def play(at: int | str, jobs: Sequence[Sequence[dict[str, Any]]]) -> list[Got]:
    """Have clients ask for all of their jobs; return what became of them."""
    said = json.dumps({"at": at, "jobs": jobs})
    done = subprocess.run(
        [sys.executable, __file__], input=said + "\n", capture_output=True, text=True, check=True
    )
    return [Got(**json.loads(line)) for line in done.stdout.splitlines()]


@contextmanager
def playing(at: int | str, jobs: Sequence[Sequence[dict[str, Any]]]) -> Iterator[list[Got]]:
    """Have clients ask on and on; the list is whole when the block is left."""
    got: list[Got] = []
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    ours, theirs = cast("TextIO", process.stdin), cast("TextIO", process.stdout)
    ours.write(json.dumps({"at": at, "jobs": jobs, "on": True}) + "\n")
    ours.flush()
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(theirs))
    reader.start()
    try:
        yield got
    finally:
        ours.close()
        reader.join()
        process.wait()
        got += [Got(**json.loads(line)) for line in lines]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them stay within."""
    ranked = sorted(values)
    return ranked[max(0, -(-int(share * 1000) * len(ranked) // 1000) - 1)]


def rate(got: Sequence[Got], tokens: int) -> float:
    """Return tokens a second of all clients together; `tokens` each where the server counts none."""
    return sum(each.tokens or tokens for each in got) / (
        max(each.ended for each in got) - min(each.sent for each in got)
    )


def pace(got: Sequence[Got], tokens: int) -> float:
    """Return tokens a second after the first of each answer: the median."""
    return statistics.median(
        ((each.tokens or tokens) - 1) / (each.ended - (each.first or each.sent)) for each in got
    )


def _main() -> None:
    asyncio.run(_run(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    _main()

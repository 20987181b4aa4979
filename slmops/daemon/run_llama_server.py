"""Run an installed llama-server on an artifact, and speak HTTP to it.

It does not know requests or the router; what is said to a llama-server is `adopted`'s.

Laws: nobody else on the device can ask it: its socket lies in a folder of our own, and it wants a key
besides; it ends with us; whoever stops listening to an answer closes its connection, which ends the work.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from slmops.daemon import adopted
from slmops.errors import ModelError

CHUNK = 1 << 16
LONGEST_LINE = 1 << 24
"""Bytes of a head at most."""
OK = 200
SOON = 0.05
"""Seconds between two looks whether it has loaded."""
PR_SET_PDEATHSIG = 1
PREFIX = "slmops-adopted-"
"""Of the folders that sockets lie in; the id of the process whose folder it is comes after it."""


class Server:
    """A running llama-server, and HTTP to it."""

    def __init__(self, process: asyncio.subprocess.Process, door: Path, key: str) -> None:
        self.process, self._door, self._key = process, door, key

    async def loaded(self) -> None:
        """Wait until it answers; raise ModelError when it ends before."""
        while self.process.returncode is None:
            with suppress(OSError, EOFError):
                status, _ = await self._whole("GET", "/health", None)
                if status == OK:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), SOON)
        raise ModelError(f"llama-server ended with {self.process.returncode}; the log says why")

    async def ask(self, path: str, said: Any = None) -> Any:
        """Return what it answers to a POST, or a GET where nothing is said; raise RefusedError as it does."""
        status, body = await self._whole("POST" if said is not None else "GET", path, said)
        found = _decoded(body)
        if status != OK:
            raise adopted.refusal(status, found)
        return found

    async def events(self, path: str, said: Any) -> AsyncGenerator[dict[str, Any]]:
        """Yield the events of an answer; closing this closes the connection, and ends the work."""
        async with self._asked("POST", path, said) as (status, lines):
            if status != OK:
                raise adopted.refusal(status, _decoded(b"".join([line async for line in lines])))
            async for line in lines:
                name, _, data = line.partition(b": ")
                if name in {b"data", b"error"} and data.strip() != b"[DONE]":
                    event = _decoded(data)
                    yield {"error": event} if name == b"error" else event

    async def _whole(self, method: str, path: str, said: Any) -> tuple[int, bytes]:
        async with self._asked(method, path, said) as (status, lines):
            return status, b"".join([line async for line in lines])

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, said: Any
    ) -> AsyncIterator[tuple[int, AsyncGenerator[bytes]]]:
        """Send a request; give the status of the answer, and its body line by line."""
        reader, writer = await asyncio.open_unix_connection(str(self._door), limit=LONGEST_LINE)
        try:
            body = b"" if said is None else msgspec.json.encode(said)
            head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nAuthorization: Bearer {self._key}\r\n"
            head += (
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            named = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)
            }
            chunked = named.get("transfer-encoding", "").lower() == "chunked"
            async with aclosing(_lines(_chunks(reader) if chunked else _rest(reader))) as lines:
                yield int(first.split()[1]), lines
        finally:
            writer.transport.abort()


@asynccontextmanager
async def started(program: str, words: Callable[[str], Sequence[str]]) -> AsyncIterator[Server]:
    """Run `program` for the length of the block; `words` are its options, by the socket it is to listen on.

    Raise ModelError when it cannot be run.
    """
    key = secrets.token_hex(16)
    ours = {name: said for name, said in os.environ.items() if not name.startswith("LLAMA_")}
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as room:
        door = Path(room) / "door.sock"
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *words(str(door)),
                stdin=asyncio.subprocess.DEVNULL,
                # What it says of itself goes to our log, by whichever way it says it.
                stdout=sys.stderr.fileno(),
                # Not in its words, which everybody on the device can read.
                env={**ours, "LLAMA_API_KEY": key},
                # Ctrl-C reaches the whole terminal; it is for the router alone.
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),
            )
        except OSError as error:
            raise ModelError(f"{program} cannot be run: {error.strerror}") from error
        try:
            yield Server(process, door, key)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _sweep() -> None:
    """Remove the folders of those that were killed and could not do it themselves."""
    for room in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
        if not Path("/proc", room.name.removeprefix(PREFIX).partition("-")[0]).exists():
            shutil.rmtree(room, ignore_errors=True)


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child calls to end when `parent` does, also when that was a moment ago."""
    prctl = ctypes.CDLL(None).prctl

    def call() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return call


async def _chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yield the chunks of a body that comes in chunks."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _rest(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yield a body that ends with its connection."""
    while data := await reader.read(CHUNK):
        yield data


async def _lines(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield a body's lines, without their ends, however it is cut."""
    held = b""
    async with aclosing(chunks):
        async for chunk in chunks:
            *whole, held = (held + chunk).split(b"\n")
            for line in whole:
                yield line
    yield held


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ModelError(f"llama-server says what is no JSON: {data[:80]!r}") from error

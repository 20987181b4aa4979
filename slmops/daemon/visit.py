"""One request from arrival to end: its body, whether its client is still there, what is counted of it.

It does not know the model, nor what is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from slmops.daemon.cache import Kept
from slmops.daemon.protocol import Done, Piece
from slmops.daemon.refusal import SERVER_ERROR, TOO_LARGE, UNSUPPORTED, RefusedError
from slmops.telemetry.events import RequestFinished

OK = 200
BODY_LIMIT = 1024 * 1024
T = TypeVar("T")


@dataclass
class Visit:
    """One request from arrival to end: what will be counted of it."""

    kind: str
    request: str = ""
    """The id by which it is known in logs."""
    key: str = ""
    """Name of the key that asks; empty without one."""
    asked: str = ""
    """What was asked, where a sample of it is to be kept; never logged."""
    arrived: float = field(default_factory=time.monotonic)
    release: str = ""
    digest: str = ""
    label: str = ""
    status: int = SERVER_ERROR
    """What is counted when nothing better is known by the end."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that had been read before."""
    output_tokens: int = 0
    first_token: float | None = None
    text: str = ""
    """What was answered: for captures and comparisons where those are asked for, and never logged."""

    def saw(self, said: Piece | Done) -> None:
        """Take note of what a worker said."""
        done = isinstance(said, Done)
        self.output_tokens = said.output_tokens if isinstance(said, Done) else said.tokens
        if self.first_token is None and (self.output_tokens or done):
            self.first_token = time.monotonic() - self.arrived
        if isinstance(said, Done):
            self.prompt_tokens, self.cached_tokens = said.prompt_tokens, said.cached_tokens
            self.text, self.status = said.text, OK

    def remember(self, kept: Kept) -> None:
        """Take note of an answer that was there already: no token of it was read or written."""
        self.text, self.status = kept.text, OK

    def event(self) -> RequestFinished:
        """Return what is kept of it."""
        return RequestFinished(
            time=time.time(),
            release=self.release,
            digest=self.digest,
            status=self.status,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            first_token_seconds=self.first_token,
            seconds=time.monotonic() - self.arrived,
            label=self.label,
            kind=self.kind,
        )


async def read_body(request: Request) -> bytes:
    """Read the body; one that is said to be too long is refused at once.

    One that only turns out so is read to its end, so that its sender hears why, but not kept.
    """
    declared = int(request.headers.get("content-length", 0))
    if declared > BODY_LIMIT:
        raise _too_large(declared)
    if request.headers.get("content-encoding", "identity") != "identity":
        message = "a body is read as it comes: Content-Encoding is not understood"
        raise RefusedError(UNSUPPORTED, message, reason="unsupported_encoding")
    kept = bytearray()
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length <= BODY_LIMIT:
            kept += chunk
    if length > BODY_LIMIT:
        raise _too_large(length)
    return bytes(kept)


def _too_large(length: int) -> RefusedError:
    message = f"the body has {length} bytes; the limit is {BODY_LIMIT}"
    return RefusedError(TOO_LARGE, message, reason="body_too_large")


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """Await `work` for as long as the client is there to hear of it; raise ClientDisconnect when it left."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        leaving.cancel()

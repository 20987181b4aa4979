"""What the router and a worker say to each other: frames over a socket pair.

Pure. The router knows no model, a worker no client; what both know is here. A frame is four bytes of length,
big-endian, then one message in MessagePack. It does not know sockets.

Laws: what was framed is read back, however the stream was cut; a frame longer than LONGEST is an error,
never memory; of each Ask there is one end: Done or Refused, unless it was cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar

import msgspec

from slmops.errors import ModelError

LONGEST = 64 * 1024 * 1024
"""Bytes of a message at most: a whole answer with scores is the longest there is."""
HEAD = 4
Kind = Literal["chat", "completion", "embeddings", "classify"]
KINDS: tuple[Kind, ...] = ("chat", "completion", "embeddings", "classify")


class Ask(msgspec.Struct, tag="ask", frozen=True, kw_only=True):
    """Router to worker: a request that was read, found valid, and has its turn."""

    id: int
    """The router's number for it; never used twice."""
    kind: Kind
    body: bytes
    """JSON of the request, as `api` reads it; fields that are not known were taken out."""
    answer: str
    """`id` of the answer, as clients see it."""
    created: int
    """Unix time, for the answer."""


class Cancel(msgspec.Struct, tag="cancel", frozen=True, kw_only=True):
    """Router to worker: nobody listens to this any more."""

    id: int


class Ping(msgspec.Struct, tag="ping", frozen=True, kw_only=True):
    """Router to worker: are you well? A Pulse answers it, whatever is being computed."""


class Ready(msgspec.Struct, tag="ready", frozen=True, kw_only=True):
    """Worker to router, once: the model has spoken."""

    slots: int
    """Requests that are computed together at most."""
    pool: int
    """Tokens that all of them together have room for."""
    context: int
    """Tokens that one of them has room for."""
    kinds: tuple[Kind, ...]
    """What it can be asked."""
    scores: bool
    """It tells log-probabilities."""
    constrains: bool
    """It keeps to a schema or grammar."""
    tools: bool
    """Its template knows tools."""
    seconds: float
    """That loading took."""


class Failed(msgspec.Struct, tag="failed", frozen=True, kw_only=True):
    """Worker to router, once, instead of Ready: the model does not load. The worker ends."""

    message: str
    code: str
    """Of the error, as `slmops explain` knows it."""


class Piece(msgspec.Struct, tag="piece", frozen=True, kw_only=True):
    """Worker to router: some more of an answer."""

    id: int
    data: bytes
    """Of a stream: its next events, whole, ready to be sent. Of a whole answer: empty; one such Piece says
    that the first token is there."""
    tokens: int
    """Written so far."""


class Done(msgspec.Struct, tag="done", frozen=True, kw_only=True):
    """Worker to router: the end of an answer."""

    id: int
    data: bytes
    """Of a stream: its last events. Else: the body."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, those that had been read before."""
    output_tokens: int
    finish: str
    """stop, length, tool_calls; "" for what is not generated."""
    text: str = ""
    """What was written, for those who look at answers; never logged."""


class Refused(msgspec.Struct, tag="refused", frozen=True, kw_only=True):
    """Worker to router: this cannot be answered, or could not be answered to its end."""

    id: int
    status: int
    message: str
    reason: str | None = None
    param: str | None = None


class Pulse(msgspec.Struct, tag="pulse", frozen=True, kw_only=True):
    """Worker to router: it lives. One that is busy and whose steps stand still hangs."""

    steps: int
    """Computations finished since the start."""
    busy: bool
    active: int
    """Requests being computed."""


ToWorker = Ask | Cancel | Ping
ToRouter = Ready | Failed | Piece | Done | Refused | Pulse

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()


def frame(message: ToWorker | ToRouter) -> bytes:
    """Return the bytes of one message, its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEAD, "big") + body


class Reader(Generic[M]):
    """Cuts a stream into messages."""

    def __init__(self, kinds: Any) -> None:
        """`kinds` is ToWorker or ToRouter: what comes from the other end."""
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kinds)
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Take what came; yield the messages that are whole now. Raise ModelError for what is none."""
        self._held += data
        while len(self._held) >= HEAD:
            size = int.from_bytes(self._held[:HEAD], "big")
            if size > LONGEST:
                raise ModelError(f"a worker's message has {size} bytes; the most is {LONGEST}")
            if len(self._held) < HEAD + size:
                return
            body = bytes(self._held[HEAD : HEAD + size])
            del self._held[: HEAD + size]
            try:
                yield self._decoder.decode(body)
            except msgspec.DecodeError as error:
                raise ModelError(f"a worker's message cannot be read: {error}") from error

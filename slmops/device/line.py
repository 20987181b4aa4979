"""The line to the operator: requests and raw bytes in on standard input, replies out on standard output.

It does not know what is asked. Law: what a handler leaves unread of a request's bytes is read before the
next request, so that the two sides never disagree on where one begins; nobody is waited for without end.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from slmops import wire
from slmops.wire import Reply, Request

if TYPE_CHECKING:
    from io import BufferedReader

PIECE = 1 << 18
PIPE = 1 << 20
F_SETPIPE_SZ = 1031
"""Linux's number; Python names it from 3.10 on."""
SILENCE = 60.0
"""Seconds without a byte after which a sender is given up."""
SLOWEST = 256.0
"""Bytes a second below which a sender is given up though it says something: nobody may hold on for ever."""
IDLE = 3600.0
"""Seconds without a request after which an operator is given up."""

_room = memoryview(bytearray(PIECE))
_source = cast("BufferedReader", sys.stdin.buffer)
_left: int | None = None
"""How many raw bytes of the request at hand are still to come; None when nobody can tell."""
_until = 0.0
"""When they must have come, in seconds of the monotonic clock."""


def open_up() -> None:
    """Make ready to listen, and not to listen for ever.

    The pipe from sshd is to hold more: fewer wake-ups, and less is lost when the link is cut.
    """
    signal.signal(signal.SIGALRM, _give_up)
    with suppress(OSError):
        fcntl.fcntl(sys.stdin.fileno(), F_SETPIPE_SZ, PIPE)


def hear() -> bytes:
    """Return the next request line, or nothing at the end; one that is too long comes cut."""
    global _left  # noqa: PLW0603 (a process has one standard input and answers one request at a time)
    _left = None
    with _patience(IDLE):
        return _source.readline(wire.LINE_BYTES)


def expect(request: Request) -> None:
    """Make ready for the raw bytes that follow a request."""
    global _left, _until  # noqa: PLW0603 (as above)
    _left = wire.body_length(request)
    _until = time.monotonic() + SILENCE + _left / SLOWEST


def read(most: int) -> memoryview:
    """Return the next raw bytes, `most` or fewer, good until the next read; none when there are no more.

    Raise TimeoutError when the operator has said nothing for SILENCE seconds, or says it so slowly that it
    never ends: it may be gone for good, and whoever comes after it must not wait.
    """
    global _left  # noqa: PLW0603 (as above)
    view = _room[: min(most, _left or 0)]
    with _patience(min(SILENCE, max(_until - time.monotonic(), 0.001))):
        got = _source.readinto1(view) if view else 0
    _left = (_left or 0) - got
    return view[:got]


def settle() -> bool:
    """Read the raw bytes that nobody wanted; say whether the next line is a request."""
    while _left and read(PIECE):
        pass
    return _left == 0


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError("the operator has fallen silent")


def note(said: dict[str, Any]) -> None:
    """Tell the operator something before the answer."""
    tell(Reply("note", said))


def tell(reply: Reply) -> None:
    """Write one reply."""
    sys.stdout.write(wire.render_reply(reply))
    sys.stdout.flush()

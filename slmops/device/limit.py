"""Limit what is waited for: a program of this device, and its daemon over loopback.

Law: nothing that goes on moves the end of a wait. A daemon that says a letter now and then is given up when
its time is over, as one that is silent.
"""

from __future__ import annotations

import socket
import subprocess
import time
from typing import Any

from slmops.errors import DeviceError

PATIENCE = 60.0
"""Seconds for a program of the system that should answer at once."""


class Line(socket.socket):
    """A connection from which nothing is read after a moment."""

    def __init__(self, plain: socket.socket, seconds: float) -> None:
        """Take a connection over; all there is to be read must have come within `seconds`."""
        super().__init__(fileno=plain.detach())
        self.settimeout(seconds)
        self.end = time.monotonic() + seconds

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read as a socket does; raise TimeoutError when the time is over."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("its time is over")
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


def connect(number: int, seconds: float) -> socket.socket:
    """Connect to a port of this machine; all there is to be read must have come within `seconds`."""
    return Line(socket.create_connection(("127.0.0.1", number), seconds), seconds)


def unbounded(line: socket.socket) -> socket.socket:
    """Return the same connection with its timeout for each piece, and no end for all of them."""
    seconds = line.gettimeout()
    plain = socket.socket(fileno=line.detach())
    plain.settimeout(seconds)
    return plain


def run(words: list[str], seconds: float = PATIENCE, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said; raise DeviceError when it does not end within `seconds`."""
    # What an operator sends is for the agent alone.
    source = {} if "input" in more else {"stdin": subprocess.DEVNULL}
    told: dict[str, Any] = {
        "capture_output": True,
        "encoding": "utf-8",
        "errors": "replace",
        **source,
        **more,
    }
    try:
        return subprocess.run(words, check=False, timeout=seconds, **told)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{words[0]} did not end within {seconds:.0f} s: {' '.join(words)[:200]}"
        ) from error

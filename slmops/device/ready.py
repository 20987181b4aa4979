"""Ask the daemon on this device whether it is ready: one question over loopback, asked often.

By hand, and not by Python's HTTP client: the supervisor asks too, as long as the device lives, and that
client and what it needs would take a tenth of its memory.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from slmops.device import admin, limit
from slmops.device.places import Places

LONGEST = 1 << 16
"""Bytes that the daemon may say of itself."""


def port(places: Places) -> int | None:
    """Return the port the daemon listens on, once it does."""
    try:
        return int(places.port.read_text())
    except (FileNotFoundError, ValueError):
        return None


def ready(places: Places, timeout: float = 5.0) -> dict[str, Any] | None:
    """Return what the daemon says of itself when it is ready to answer, else None.

    `timeout` is how many seconds it has to say it.
    """
    try:
        status, said = _asked(places, timeout)
    except (OSError, OverflowError, ValueError, IndexError):
        return None
    return said if status == b"200" and isinstance(said, dict) and said.get("ready") is True else None


def connect(places: Places, timeout: float) -> socket.socket:
    """Connect to the daemon for so many seconds at most, as whoever it answers; raise OSError of none.

    As its keeper where keys are asked for, and where it answers at another address of this machine alone.
    """
    if not places.keys.exists():
        number = port(places)
        if number is None:
            raise ConnectionRefusedError("the daemon does not listen yet")
        with suppress(ConnectionRefusedError):
            return limit.connect(number, timeout)
    return limit.Line(admin.connect(places, timeout), timeout)


def _asked(places: Places, timeout: float) -> tuple[bytes, Any]:
    with connect(places, timeout) as line:
        line.sendall(b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        with line.makefile("rb") as answer:
            head, _, body = answer.read(LONGEST).partition(b"\r\n\r\n")
    return head.split()[1], json.loads(body)

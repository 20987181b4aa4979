"""Ask the router on this device what only its keeper may: one question over its admin socket.

By hand, as `ready` asks, and for the same reason. A question may take as long as a model takes to load: an
`Errand` is sent and then looked at, and who sent it never waits.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from slmops.device import limit
from slmops.device.places import Places

LONGEST = 1 << 20
"""Bytes of an answer at most."""
SENDING = 0.5
"""Seconds that a router has to take a question in; it is a few hundred bytes."""
OK = 200


@dataclass(frozen=True)
class Answer:
    """What the router said."""

    status: int
    """Of HTTP."""
    said: dict[str, Any]

    @property
    def message(self) -> str:
        """Return why it refused."""
        error = self.said.get("error", self.said)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


class Errand:
    """One question that was sent; raise OSError where nobody takes it."""

    def __init__(self, places: Places, verb: str, said: dict[str, Any] | None = None) -> None:
        """Send it: a GET, or with `said` a POST."""
        self.verb, self.said = verb, said
        self._line = _sent(places, verb, said, SENDING)
        self._line.setblocking(False)
        self._heard = b""

    def look(self) -> Answer | None:
        """Return the answer once it is there; raise OSError when there will be none."""
        try:
            while len(self._heard) <= LONGEST and (more := self._line.recv(1 << 16)):
                self._heard += more
        except BlockingIOError:
            return None
        self.leave()
        return _read(self._heard)

    def leave(self) -> None:
        """Listen no longer."""
        self._line.close()


def status(places: Places, timeout: float = 2.0) -> dict[str, Any] | None:
    """Return what the router says of itself and its versions; None when it does not, in so many seconds."""
    with suppress(OSError), limit.Line(_sent(places, "status", None, timeout), timeout) as line:
        with line.makefile("rb") as answer:
            heard = _read(answer.read(LONGEST))
        return heard.said if heard.status == OK else None
    return None


def _sent(places: Places, verb: str, said: dict[str, Any] | None, timeout: float) -> socket.socket:
    body = b"" if said is None else json.dumps(said).encode()
    head = f"{'GET' if said is None else 'POST'} /admin/v1/{verb} HTTP/1.0\r\nHost: admin\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    line = connect(places, timeout)
    try:
        line.sendall(head.encode() + body)
    except OSError:
        line.close()
        raise
    return line


def connect(places: Places, seconds: float) -> socket.socket:
    """Connect to the router as its keeper, who needs no key; raise OSError where it does not listen."""
    line = socket.socket(socket.AF_UNIX)
    # A socket's name is short, a root's path may be long.
    folder = os.open(str(places.run), os.O_RDONLY)
    try:
        line.settimeout(seconds)
        line.connect(f"/proc/self/fd/{folder}/{places.admin.name}")
    except OSError:
        line.close()
        raise
    finally:
        os.close(folder)
    return line


def _read(heard: bytes) -> Answer:
    head, _, body = heard.partition(b"\r\n\r\n")
    try:
        status, said = int(head.split()[1]), json.loads(body)
    except (IndexError, ValueError) as error:
        raise ConnectionResetError("the router broke off") from error
    if not isinstance(said, dict):
        raise ConnectionResetError("the router said something of no known shape")
    return Answer(status, said)

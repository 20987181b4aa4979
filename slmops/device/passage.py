"""Keep what one router leaves to the next: connections that lie idle between two requests.

A pair of sockets, of which each router is handed both ends: at its start it takes up the connections that lie
there, at its end it leaves its own. They travel as descriptors, so that what clients send meanwhile waits in
the kernel, as who connects waits at the door. It does not know what is said over them.

Laws: what no router takes is not kept; the passage outlives the supervisor's becoming a newer agent; a router
that nobody follows is told by it, before its end.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

HELD = "SLMOPS_SUPERVISOR_PASSAGE"
"""Names both descriptors to the process that this one becomes."""
OURS = "slmops/device/passage.py"
"""In an agent's archive, of one that has this file."""
ROOM = 1 << 20
"""Bytes that may lie there, as many as the kernel allows: 200 KB are some 280 connections."""


class Passage:
    """Both ends, or none yet."""

    def __init__(self) -> None:
        """Take over what the process before held."""
        held = os.environ.pop(HELD, "").split()
        self._ends = [socket.socket(fileno=int(number)) for number in held]
        for end in self._ends:
            os.set_inheritable(end.fileno(), False)

    def open(self) -> list[int]:
        """Return the descriptors by which a router takes up connections, and by which it leaves them."""
        if not self._ends:
            self._ends = list(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            self._ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        return [end.fileno() for end in self._ends]

    def clear(self) -> None:
        """End the connections that lie there: a router of before leaves them lying."""
        for end in self._ends[:1]:
            end.setblocking(False)
            with suppress(OSError):
                while numbers := socket.recv_fds(end, 1, 1)[1]:
                    for number in numbers:
                        os.close(number)

    def close(self) -> None:
        """Let both ends go, and what lies there; a router that has them sees that nobody follows it."""
        for end in self._ends[1:]:
            # For all who hold it: what is closed here alone would still take connections there.
            end.shutdown(socket.SHUT_WR)
        self.clear()
        for end in self._ends:
            end.close()
        self._ends = []

    def hand_over(self) -> None:
        """Keep it for the process that this one becomes."""
        for number in map(socket.socket.fileno, self._ends):
            os.set_inheritable(number, True)
        os.environ[HELD] = " ".join(str(end.fileno()) for end in self._ends)

"""The passage from one router to the next: connections that lie idle between two requests wait in it.

Who starts the routers holds a pair of sockets and hands both ends to each (`wire.PASSAGE` names their
descriptors). A router that is about to end leaves its idle connections there, as descriptors, and the next
takes them up: whoever keeps a connection does not know that there were two routers, and what he sent
meanwhile waits in the kernel. Who holds the passage shuts it where no other router comes.

Law: what cannot be left there stays with who would leave it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import MutableMapping
from contextlib import suppress

from slmops.wire import PASSAGE

NOTE = b"."
"""A descriptor does not travel alone."""


class Passage:
    """Both ends of a passage, or none."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the ends that were handed to this process, and their notice out of `environ`."""
        self._ends = [socket.socket(fileno=int(number)) for number in environ.pop(PASSAGE, "").split()]
        for end in self._ends:
            end.setblocking(False)
            os.set_inheritable(end.fileno(), False)

    def __bool__(self) -> bool:
        """Say whether somebody may come after this process."""
        looks = select.poll()
        for end in self._ends[:1]:
            looks.register(end, select.POLLRDHUP)
        return bool(self._ends) and not looks.poll(0)

    def take(self) -> list[socket.socket]:
        """Return the connections that were left by who came before; no process started from here has them."""
        found: list[socket.socket] = []
        with suppress(BlockingIOError):
            while self._ends and (numbers := socket.recv_fds(self._ends[0], len(NOTE), 1)[1]):
                for number in numbers:
                    os.set_inheritable(number, False)
                    found.append(socket.socket(fileno=number))
        return found

    def leave(self, number: int) -> bool:
        """Leave the connection with this descriptor to who comes next; say whether it could be."""
        with suppress(OSError):
            return bool(self._ends) and socket.send_fds(self._ends[1], [NOTE], [number]) > 0
        return False

    def close(self) -> None:
        """Let both ends go."""
        for end in self._ends:
            end.close()
        self._ends = []

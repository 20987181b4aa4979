"""Hold the port that the daemon answers on, whoever is the daemon just now.

The supervisor binds it and hands the listening socket to each router it starts, as systemd does: between one
router and the next, connections wait, and nobody is refused. It does not know what is said over them.

Laws: the socket outlives the supervisor's becoming a newer agent; ROOT/run/port names it while it is held,
and says nothing of whether anybody answers.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops.device import passage
from slmops.device.passage import Passage
from slmops.device.places import Places, write

HELD = "SLMOPS_SUPERVISOR_SOCKET"
"""Names descriptor, port and host to the process that this one becomes."""
OURS = "slmops/device/listen.py"
"""In an agent's archive, of one that has this file."""
LOOPBACK = "127.0.0.1"
WAITING = 512
"""Connections that may wait for a router at most; the kernel may allow fewer."""
PATIENCE = 2.0
"""Seconds that a port may still be somebody's who was just killed."""


class Listener:
    """The port of this device, or none."""

    def __init__(self, places: Places) -> None:
        """Take over what the process before held."""
        self.passage = Passage()
        self._places = places
        self._at: tuple[str, int] | None = None
        self._socket: socket.socket | None = None
        held = os.environ.pop(HELD, None)
        if held is not None:
            descriptor, port, host = held.split(" ", 2)
            os.set_inheritable(int(descriptor), False)
            self._at, self._socket = (host, int(port)), socket.socket(fileno=int(descriptor))

    def open(self, host: str, port: int) -> list[int]:
        """Return what a router is handed: descriptors of the socket that listens there and of the passage.

        Raise OSError where none can listen there.
        """
        if self._socket is None or not self.is_at(host, port):
            self.close()
            self._socket, self._at = _bound(host, port), (host, port)
            number = self._socket.getsockname()[1]
            # Whoever cannot read it asks in vain; what is served must not wait for a full disk.
            with suppress(OSError):
                write(self._places.port, f"{number}\n".encode())
        return [self._socket.fileno(), *self.passage.open()]

    def is_at(self, host: str, port: Any) -> bool:
        """Say whether the port that is held is this one."""
        return self._at == (host, port)

    def close(self) -> None:
        """Let the port go, and who came by it."""
        self.passage.close()
        if self._socket is not None:
            self._socket.close()
            with suppress(OSError):
                self._places.port.unlink()
        self._socket, self._at = None, None

    def hand_over(self, agent: Path) -> None:
        """Keep the socket for the agent that this process becomes."""
        if self._socket is not None and self._at is not None:
            os.set_inheritable(self._socket.fileno(), True)
            os.environ[HELD] = f"{self._socket.fileno()} {self._at[1]} {self._at[0]}"
            if _has(agent, passage.OURS):
                self.passage.hand_over()
            else:
                self.passage.close()


def knows_sockets(agent: Path) -> bool:
    """Say whether an agent takes up a socket that is handed over; one of before would leave it unheard."""
    return _has(agent, OURS)


def is_loopback(host: str) -> bool:
    """Say whether what listens there is reached from this machine alone; a name is looked up."""
    import ipaddress  # noqa: PLC0415 - asked of few devices

    try:
        found = [each[4][0] for each in socket.getaddrinfo(host, None)]
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def _has(agent: Path, file: str) -> bool:
    import zipfile  # noqa: PLC0415 - asked once in an agent's life

    try:
        with zipfile.ZipFile(str(agent)) as archive:
            return file in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    end = time.monotonic() + PATIENCE
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind(address)
                listener.listen(WAITING)
            except OSError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.05)
            else:
                return listener
    except OSError:
        listener.close()
        raise

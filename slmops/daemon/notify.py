"""Notify systemd: ready, how things stand, still alive, stopping.

A few datagrams to the socket that NOTIFY_SOCKET names; where it names none, nothing is sent. It knows
nothing of what it speaks for: whether that is well, a callable says.

Laws: the watchdog hears nothing while the callable says no, or while the event loop is stuck; workers do not
inherit the socket's name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, MutableMapping

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
LOADING_STEP = 10.0
"""Seconds between two words that loading goes on; each asks for three times as long."""
log = logging.getLogger("slmops.daemon")


class Notifier:
    """Tells systemd how this process stands."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the names out of `environ`, so that no child speaks for this process."""
        said = {name: environ.pop(name, "") for name in NAMES}
        place = said["NOTIFY_SOCKET"]
        self._place = "\0" + place[1:] if place.startswith("@") else place
        mine = said["WATCHDOG_PID"] in {"", str(os.getpid())}
        self.watchdog = int(said["WATCHDOG_USEC"]) / 1e6 if said["WATCHDOG_USEC"].isdigit() and mine else None
        """Seconds within which systemd wants to hear of us; None: it does not watch."""

    def ready(self, status: str) -> None:
        """Say that what was asked for is there; `status` is for people (`systemctl status`)."""
        self._tell("READY=1", f"STATUS={_line(status)}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._tell("STOPPING=1", "STATUS=finishing what was begun")

    async def loading(self, status: str) -> None:
        """Ask for more time again and again; cancel it when the loading has ended."""
        while True:
            self._tell(
                f"EXTEND_TIMEOUT_USEC={int(LOADING_STEP * 3e6)}", "WATCHDOG=1", f"STATUS={_line(status)}"
            )
            await asyncio.sleep(LOADING_STEP)

    async def watch(self, well: Callable[[], bool]) -> None:
        """Tell the watchdog that all is well, twice in each of its terms, for as long as `well()` says so.

        Returns at once where nobody watches.
        """
        while self._place and self.watchdog:
            if well():
                self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _tell(self, *lines: str) -> None:
        if not self._place:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), self._place)
            except OSError as error:
                log.warning("systemd was not told %s: %s", lines[0], error)


def _line(text: str) -> str:
    return " ".join(text.split())

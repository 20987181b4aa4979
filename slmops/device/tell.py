"""Keep at hand what this device would answer to `status`, so that who looks needs no program of ours to run.

The supervisor's own memory holds the line (`telemetry/bulletin`), in a file that has no name and no disk;
ROOT/run/bulletin links to it through /proc. So it ends with the supervisor and with the machine, and writing
it anew wears no flash. Whatever here cannot be told is not told: who looks then asks the agent.

Laws: a verb that changed something takes the link away before it answers, and it comes back only with what
is so after that; nothing that goes wrong here ends what serves.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from slmops.device import boots, report
from slmops.device.places import Places
from slmops.telemetry import bulletin
from slmops.telemetry.sums import Sums

BEAT = 10.0
"""Seconds from one bulletin to the next where nothing changes: how old the daemon's health may be."""
PATIENCE = 1.0
"""Seconds the daemon has to say that it is ready; the supervisor has more to do than to wait."""
WEIGH = 60.0
"""Seconds from one look at the daemon's memory to the next: the kernel walks all of it."""


class Teller:
    """The supervisor's part: looks whether something changed, and tells it."""

    def __init__(self, places: Places) -> None:
        """Begin with nothing told; where no file can be made in memory, that is how it stays."""
        self._places, self._sums = places, Sums(places.spool)
        self._file = _in_memory()
        self._link = f"/proc/{os.getpid()}/fd/{self._file}"
        self._stamp: object = None
        self._moving = True
        self._due = self._weigh = 0.0
        self._memory: dict[str, int] | None = None

    def look(self) -> None:
        """Tell anew when something changed since the last look, or when it is time."""
        if self._file is None:
            return
        stamp, there = _stamp(self._places), self._is_linked()
        changed = stamp != self._stamp
        # Once more after a change: the clock of a file system is coarse, and another may have followed.
        if changed or self._moving or not there or time.monotonic() >= self._due:
            self._tell(self._file, anew=changed)
            if not there and stamp == _stamp(self._places):
                self._put_up()
            self._stamp, self._moving = stamp, changed
            self._due = time.monotonic() + BEAT

    def hush(self) -> None:
        """Tell nothing until the next look: what serves is about to end."""
        self._stamp = None
        if self._file is not None:
            _fill(self._file, b"")

    def _tell(self, file: int, *, anew: bool) -> None:
        try:
            line = self._line(anew=anew).encode()
        except Exception:  # noqa: BLE001 - what serves must not end over what is told of it
            line = b""
        _fill(file, line)

    def _line(self, *, anew: bool) -> str:
        at = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        if anew or time.monotonic() >= self._weigh:
            self._memory, self._weigh = report.memory(self._places), time.monotonic() + WEIGH
        status = report.tell(self._places, self._sums, self._memory, patience=PATIENCE)
        folder = os.path.realpath(str(self._places.run))
        return bulletin.render(status, folder=folder, boot=boots.identity(), at=at)

    def _is_linked(self) -> bool:
        try:
            return str(self._places.bulletin.readlink()) == self._link
        except OSError:
            return False

    def _put_up(self) -> None:
        """Link to the file in memory: the link appears whole, and whoever reads it gets all or nothing."""
        fresh = self._places.run / f".new-{os.urandom(6).hex()}"
        with suppress(OSError):
            fresh.symlink_to(self._link)
            fresh.replace(self._places.bulletin)


def _in_memory() -> int | None:
    """Make a file that lies in memory; None where this Python or this kernel makes none."""
    if not hasattr(os, "memfd_create"):
        return None
    with suppress(OSError):
        return os.memfd_create("bulletin")
    return None


def _fill(file: int, line: bytes) -> None:
    """Write the line anew; of what memory does not take, a part is there, which nobody believes."""
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, line, 0)


def _stamp(places: Places) -> object:
    """Return what changes when something is written here: all but the journal is written by renaming."""
    return [_moment(path) for path in (places.root, places.slots, places.trust, places.run, places.journal)]


def _moment(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0

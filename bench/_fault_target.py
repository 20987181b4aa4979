"""One device of a fleet that is broken on purpose, seen from the machine that it is on.

Its journal, its links and its processes are read as they lie: neither ssh nor its agent is asked. It does not
know what is done to the device.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from slmops.device import journal
from slmops.device.places import Places
from slmops.device.trial import Standing


@dataclass
class Target:
    """One device of the fleet, seen from the machine that it is on."""

    name: str
    folder: Path
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        self.places = Places(self.folder / "home/.slmops")

    @property
    def fault(self) -> Path:
        """Return the file that tells this device's interposer what to do."""
        return self.folder / "fault.json"

    def standing(self) -> Standing:
        """Return where the device stands, by its own journal."""
        return journal.standing(self.places)

    def kinds(self) -> list[str]:
        """Return what its journal has recorded, in order."""
        return [str(record["kind"]) for record in journal.read(self.places.journal)]

    def agents(self) -> list[int]:
        """Return the processes that answer an operator."""
        return [pid for pid, words in self._processes() if "supervise" not in words and _is_agent(words)]

    def supervisors(self) -> list[int]:
        """Return the process that keeps the daemon running."""
        return [pid for pid, words in self._processes() if "supervise" in words and _is_agent(words)]

    def daemons(self) -> list[int]:
        """Return the daemon's process."""
        port = str(self.places.port)
        return [pid for pid, words in self._processes() if port in words]

    def sessions(self) -> list[int]:
        """Return the processes of sshd that serve a connection."""
        listener = (self.folder / "sshd.pid").read_text().strip()
        return _children(int(listener))

    def answers(self) -> bool:
        """Say whether the daemon answers, and for the slot that the journal names."""
        with suppress(OSError, ValueError):
            port = int(self.places.port.read_text())
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as said:
                return bool(json.load(said)["digest"] == f"sha256:{self.standing().slot}")
        return False

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        mark = f"{self.folder}/".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                said = (folder / "cmdline").read_bytes()
                if mark in said:
                    yield int(folder.name), said.decode(errors="replace").split("\0")


def kill(pid: int) -> bool:
    """Kill a process as nobody can withstand; say whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _is_agent(words: list[str]) -> bool:
    return any(word.endswith(".pyz") and "/.slmops/agent" in word for word in words)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []

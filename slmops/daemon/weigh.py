"""Weigh what memory there is for versions: what the machine says, and what workers hold of it.

It does not know what is done about it (`room`). To the kernel the pages of mapped weights are free for the
taking. Here they are not: whoever serves would read them again for each token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from slmops.daemon.pressure import Reading
from slmops.daemon.room import Memory


def memory(reading: Reading, limit: int | None, workers: Mapping[str, int | None]) -> Memory:
    """Return what there is; `limit` is what the daemon was told, `workers` are processes by digest."""
    sizes = {digest: resident_bytes(pid)[0] for digest, pid in workers.items()}
    mapped = sum(file_bytes(pid) for pid in workers.values())
    available = None if reading.available is None else max(0, reading.available - mapped)
    if limit is not None:
        used = sum(sizes.values()) + resident_bytes(os.getpid())[0]
        return Memory(limit, used, available, sizes, reading.total)
    return Memory(reading.limit, (reading.used or 0) + mapped, available, sizes, reading.total)


def resident_bytes(pid: int | None) -> tuple[int, int]:
    """Return what a process has resident now and had at its peak, in bytes; zeros where it is gone."""
    found = _status(pid)
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def file_bytes(pid: int | None) -> int:
    """Return the bytes that a process has resident of files it has mapped; zero where it is gone."""
    return _status(pid).get("RssFile", 0)


def _status(pid: int | None) -> dict[str, int]:
    """Return what the kernel says of a process's memory, in bytes; nothing where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    found = (line.split(":", 1) for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(said.split()[0]) * 1024 for name, said in found}

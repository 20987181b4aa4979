"""Which boot of the machine this is: a clock that never jumps counts from there.

Deadlines on a device are seconds of the monotonic clock together with the boot they were counted in; the
time of day is written down for people and decides nothing.
"""

from __future__ import annotations

from pathlib import Path


def identity() -> str:
    """Return the identity of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

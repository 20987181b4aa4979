"""Which boot of the machine this is: a clock that never jumps counts from there.

Deadlines on a device are seconds of the monotonic clock together with the boot they were counted in; the
time of day is written down for people and decides nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

TOLD = "SLMOPS_BOOT"
"""Where a unit whose /proc is not the machine's is told the identity, in systemd's 32 digits."""
PARTS = (8, 12, 16, 20)


def identity() -> str:
    """Return the identity of this boot."""
    told = os.environ.get(TOLD, "")
    if told:
        return "-".join(told[start:end] for start, end in zip((0, *PARTS), (*PARTS, None)))
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

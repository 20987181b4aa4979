"""A user's crontab: a line of ours in it, and every other line as it was."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress

from slmops.device import limit
from slmops.errors import DeviceError

_NONE = re.compile("no crontab|No such file")
"""How cron, and how busybox, says that a user has no crontab yet."""


def there() -> bool:
    """Say whether this device has a crontab for its users."""
    return shutil.which("crontab") is not None


def has(line: str) -> bool:
    """Say whether the crontab has a line."""
    return line in (_lines() or [])


def add(line: str) -> None:
    """Put a line into the crontab, where there is one and it lets us."""
    lines = _lines()
    if lines is not None and line not in lines:
        _replace([*lines, line])


def remove(line: str) -> None:
    """Take a line out of the crontab."""
    lines = _lines()
    if lines is not None and line in lines:
        _replace([each for each in lines if each != line])


def _lines() -> list[str] | None:
    """Return the lines there are; None where nobody can tell: what is not known must not be replaced."""
    if not there():
        return None
    try:
        done = _run("-l")
    except DeviceError:
        return None
    if done.returncode == 0:
        return done.stdout.removesuffix("\n").split("\n") if done.stdout else []
    return [] if _NONE.search(done.stderr) else None


def _replace(lines: list[str]) -> None:
    # A device that no cron starts again waits for the next deploy: that is told, and harms no release.
    with suppress(DeviceError):
        _run("-", "".join(f"{line}\n" for line in lines))


def _run(word: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run crontab; bytes that are no text here come out as they went in."""
    environment = {**os.environ, "LC_ALL": "C"}
    return limit.run(["crontab", word], input=text, errors="surrogateescape", env=environment)

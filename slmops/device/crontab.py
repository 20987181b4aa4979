"""A user's crontab: a line of ours in it, and every other line as it was."""

from __future__ import annotations

import shutil
import subprocess


def there() -> bool:
    """Say whether this device has a crontab for its users."""
    return shutil.which("crontab") is not None


def has(line: str) -> bool:
    """Say whether the crontab has a line."""
    return line in _lines()


def add(line: str) -> None:
    """Put a line into the crontab, where there is one and it lets us."""
    lines = _lines()
    if there() and line not in lines:
        _replace([*lines, line])


def remove(line: str) -> None:
    """Take a line out of the crontab."""
    lines = _lines()
    if line in lines:
        _replace([each for each in lines if each != line])


def _lines() -> list[str]:
    if not there():
        return []
    # Without a crontab, or without leave to have one, it says so and lists nothing.
    done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _replace(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    subprocess.run(["crontab", "-"], input=text, capture_output=True, text=True, check=False)

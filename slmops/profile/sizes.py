"""Amounts of bytes as people write them: "8GiB", "512 MiB", "10.2GB/s"; and rates for people.

KiB, MiB, GiB, TiB count in 1024s; kB (or KB), MB, GB, TB in 1000s; a bare number is bytes.
Knows nothing of what the bytes are for.

Laws: `parse_size(exact_size(n)) == n` for every n >= 0, and likewise for rates; what is for people rounds.
Runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import re
from decimal import Decimal

UNITS = {
    "TiB": 1 << 40,
    "TB": 10**12,
    "GiB": 1 << 30,
    "GB": 10**9,
    "MiB": 1 << 20,
    "MB": 10**6,
    "KiB": 1 << 10,
    "kB": 10**3,
    "KB": 10**3,
    "B": 1,
}
SIZE_PATTERN = r"[0-9]+(\.[0-9]+)? ?([TGM]i?B|KiB|[kK]B|B)?"
RATE_PATTERN = SIZE_PATTERN + "/s"
_TWO_DIGITS = 10
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([TGM]i?B|KiB|[kK]B|B)?")


def parse_size(said: object) -> int:
    """Return a size in bytes, fractions of a byte cut off; raise ValueError for what is no size."""
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    match = _SIZE.fullmatch(said) if isinstance(said, str) else None
    if match is None:
        raise ValueError(f"expected a size like 8GiB, 512MiB or 1.5GB, got {said!r}")
    return int(Decimal(match[1]) * UNITS[match[2] or "B"])


def parse_rate(said: object) -> int:
    """Return bytes per second; raise ValueError for what is no rate."""
    if isinstance(said, str) and not said.endswith("/s"):
        raise ValueError(f"expected a rate like 10.2GB/s or 800MB/s, got {said!r}")
    try:
        return parse_size(said[: -len("/s")] if isinstance(said, str) else said)
    except ValueError as error:
        raise ValueError(f"expected a rate like 10.2GB/s or 800MB/s, got {said!r}") from error


def exact_size(size: int) -> str:
    """Write bytes in the shortest form that parses back to them: 8GiB, 10.2GB, 1023B."""
    forms = (f"{(Decimal(size) / scale).normalize():f}{unit}" for unit, scale in UNITS.items())
    return min((form for form in forms if parse_size(form) == size), key=len)


def exact_rate(rate: int) -> str:
    """Write bytes per second in the shortest form that parses back to them."""
    return exact_size(rate) + "/s"


def human_size(size: float) -> str:
    """Write bytes for a person, to one decimal: 812.0 MiB, 1.4 GiB."""
    for unit in ("GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            return f"{size / UNITS[unit]:.1f} {unit}"
    return f"{size:.0f} B"


def decimal_size(count: float) -> str:
    """Write bytes for a person in 1000s, as what was sent is told: 812 B, 1.50 MB, 3.20 GB."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < UNITS["kB"]:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= UNITS["kB"]
    return f"{count:.2f} GB"


def human_rate(rate: float) -> str:
    """Write how often a second for a person, to the two digits a prediction knows: 0.33, 4.2, 36, 1200."""
    rounded = float(f"{rate:.2g}")
    return f"{rounded:.0f}" if rounded >= _TWO_DIGITS else f"{rounded:g}"

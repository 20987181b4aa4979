"""Figures of a training as people read them.

Pure. Knows nothing of what a figure is of.

Law: whatever a file may hold in a figure's place is written: what is no finite number, as unknown.
"""

from __future__ import annotations

import math
from typing import Any

from slmops.build.plot import raised
from slmops.profile.sizes import human_size

UNKNOWN = "—"
_FEW, _MANY = 100, 10_000
_SCALES = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_MINUTE, _HOUR = 60, 3600


def known(value: Any) -> float | None:
    """Return a finite number, or None for whatever else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: Any) -> float:
    """Return a finite number, or NaN for whatever else."""
    found = known(value)
    return math.nan if found is None else found


def short(value: Any, digits: int = 3) -> str:
    """Write a number to as many digits: 0.0123, 120, 2.6·10⁻⁵."""
    found = known(value)
    if found is None:
        return UNKNOWN
    text, _, power = f"{found:.{digits}g}".partition("e")
    if power and 0 < int(power) <= 3:  # noqa: PLR2004 - 1200 is still read at a glance
        return f"{float(f'{text}e{power}'):g}"
    return f"{text}·{raised(int(power))}" if power else text


def counted(value: Any) -> str:
    """Write how many, large numbers to three digits: 8,192, 350 k, 2.05 M."""
    found = known(value)
    if found is None:
        return UNKNOWN
    if found < _MANY:
        return f"{found:,.0f}" if found >= _FEW else f"{found:.3g}"
    scale, unit = next((scale, unit) for scale, unit in _SCALES if found >= 0.9995 * scale)
    return f"{short(found / scale)}\u00a0{unit}"


def whole(value: Any) -> str:
    """Write a whole number with all its digits: 656,384."""
    found = known(value)
    return UNKNOWN if found is None else f"{found:,.0f}"


def share(value: Any) -> str:
    """Write a share: 61.0%."""
    found = known(value)
    return UNKNOWN if found is None else f"{found:.1%}"


def size(value: Any) -> str:
    """Write bytes: 2.5 MiB."""
    found = known(value)
    return UNKNOWN if found is None else human_size(found)


def span(value: Any) -> str:
    """Write seconds: 45 s, 3 min 20 s, 2 h 5 min."""
    found = known(value)
    if found is None:
        return UNKNOWN
    seconds = round(found)
    if seconds < _MINUTE:
        return f"{found:.2g}\u00a0s" if found < 10 else f"{seconds}\u00a0s"  # noqa: PLR2004 - then halves are noise
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}\u00a0min {seconds % _MINUTE}\u00a0s"
    return f"{seconds // _HOUR}\u00a0h {seconds % _HOUR // _MINUTE}\u00a0min"

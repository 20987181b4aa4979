"""Room on the device's disk: how much there is, and what to say when it is not enough."""

from __future__ import annotations

import os

from slmops.device.places import Places
from slmops.errors import DoesNotFitError
from slmops.wire import DISK_RESERVE

FREE_SOME = "Free some: slmops device gc. What is not slmops' own only you can remove."


def free(places: Places) -> int:
    """Return the bytes of disk that are free."""
    found = os.statvfs(str(places.root))
    return found.f_bavail * found.f_frsize


def full(places: Places, what: str, coming: int) -> DoesNotFitError:
    """Return the error of `coming` bytes for which there is no room; `what` opens its message."""
    here = free(places)
    short = max(0, coming + DISK_RESERVE - here)
    return DoesNotFitError(
        f"{what}: {short / 1e6:.1f} MB short ({coming / 1e6:.1f} MB to come, {DISK_RESERVE / 1e6:.0f} MB "
        f"kept free, {here / 1e6:.1f} MB free)",
        remedy=FREE_SOME,
    )

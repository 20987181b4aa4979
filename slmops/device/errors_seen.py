"""Watch what the daemon's own record says of its requests while a slot is on trial.

Laws: a request that came too early (503: the model was loading, or the queue was full) is no error of the
model; a daemon that ends while it is watched is not seen to be well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from slmops.device import admin, journal, steer, talk
from slmops.device.places import Places, read_json
from slmops.errors import DeviceError, IntegrityError, MissingPartError
from slmops.telemetry import spool

STEP = 1.0
"""Seconds between two looks."""


def mark(places: Places) -> int:
    """Return the number of the last request that was recorded: a clock may jump, numbers only rise."""
    try:
        return spool.read(places.spool, limit=0).last
    except (IntegrityError, MissingPartError):
        return 0


def watch(
    places: Places, slot: str, after: int, seconds: float, note: Callable[[dict[str, Any]], None]
) -> float | None:
    """Return the share of the slot's requests after a `mark` that failed, `seconds` from now; None of none.

    Raises DeviceError when the daemon does not live through it.
    """
    crashes, end = _ends(places, slot), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        note({"step": "watching", "seconds": round(left)})
        time.sleep(min(STEP, left))
        if _ends(places, slot) != crashes or journal.standing(places).slot != slot:
            raise DeviceError("the daemon ended while it was watched")
    if seconds and (talk.ready(places) or {}).get("digest") != f"sha256:{slot}":
        raise DeviceError("the daemon does not answer after it was watched")
    statuses = _statuses(places, slot, after)
    early = HTTPStatus.SERVICE_UNAVAILABLE
    failed = [each for each in statuses if each >= HTTPStatus.INTERNAL_SERVER_ERROR and each != early]
    return len(failed) / len(statuses) if statuses else None


def _statuses(places: Places, slot: str, after: int) -> list[int]:
    """Return the statuses of the slot's requests; none where the record is damaged."""
    # No release goes back for that.
    try:
        return spool.statuses(places.spool, f"sha256:{slot}", after)
    except (IntegrityError, MissingPartError):
        return []


def _ends(places: Places, slot: str) -> object:
    """Return what changes when the slot's daemon ends, as the supervisor and the router count."""
    counted = (read_json(places.daemon) or {}).get("crashes", 0)
    return counted, steer.version(admin.status(places), slot).get("crashes", 0)

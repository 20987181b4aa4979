"""Heed an application that must not be disturbed: while it holds its update lock, nothing is activated.

An application creates ROOT/update-lock and removes it again. The file may be empty, or a JSON object:

    {"why": "a customer is paying", "until": 1767225600, "pid": 4711}     each of them optional

Law: only a switch that an operator asks for is put off. Releases still come in, and a device still goes back
by itself; a lock whose `until` (Unix time) has passed or whose process is gone is not there.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from slmops.device.places import Places
from slmops.errors import DeferredError

LONGEST = 4096
"""Bytes of the file that are read."""
SHOWN = 200
FOREVER = 1e12
"""Unix times that are none: a lock until then, or until no number at all, has no end."""


def require_leave(places: Places, said: dict[str, Any]) -> None:
    """Raise DeferredError while an application holds its update lock, unless `override_lock` is said."""
    lock = update_lock(places)
    if lock is not None and not said.get("override_lock"):
        until = f" until {_moment(lock['until'])}" if lock["until"] is not None else ""
        raise DeferredError(
            f"an application holds {places.update_lock}{until}: {lock['why'] or 'it does not say why'}"
        )


def update_lock(places: Places) -> dict[str, Any] | None:
    """Return the application's lock {why, until, pid}, or None where none holds."""
    try:
        # Whoever made a pipe of it is not waited for.
        descriptor = os.open(str(places.update_lock), os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, LONGEST)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        # What cannot be read was put there all the same.
        return {"why": f"it cannot be read: {error.strerror}", "until": None, "pid": None}
    said = _object(data)
    until, pid, why = said.get("until"), said.get("pid"), said.get("why")
    until = until if isinstance(until, (int, float)) and not isinstance(until, bool) else None
    until = until if until is None or abs(until) < FOREVER else None
    pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None
    if (until is not None and until < time.time()) or (pid is not None and _is_gone(pid)):
        return None
    shown = "".join(letter if letter.isprintable() else " " for letter in str(why or ""))[:SHOWN]
    return {"why": shown, "until": until, "pid": pid}


def _object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a file; what is none says nothing, and locks all the same."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _moment(unix: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix))
    except (OverflowError, ValueError, OSError):
        return "the end of days"

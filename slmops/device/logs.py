"""The last lines of what the daemon, the supervisor and the agent wrote down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from slmops.device import child, journal, service
from slmops.device.places import Places
from slmops.errors import DeviceError


def logs(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return {lines}: the last `lines` of the log `of` daemon, supervisor or agent (its decisions)."""
    of = said.get("of", "daemon")
    if of not in SOURCES:
        raise DeviceError(
            f"there is no log of {of!r}; there are those of {', '.join(SOURCES)}",
            remedy="Name one of those: slmops device logs DEVICE --of supervisor.",
        )
    return {"lines": SOURCES[of](places, said["lines"])}


def _decisions(places: Places, lines: int) -> list[str]:
    return [_decision(record) for record in journal.read(places.journal)[-lines:]]


def _decision(record: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.get("at", 0)))
    words = [
        at,
        record["kind"],
        str(record.get("slot") or "")[:12],
        record.get("code"),
        record.get("message"),
    ]
    return " ".join(str(word) for word in words if word)


SOURCES: dict[str, Callable[[Places, int], list[str]]] = {
    "daemon": child.log_tail,
    "supervisor": service.log_tail,
    "agent": _decisions,
}

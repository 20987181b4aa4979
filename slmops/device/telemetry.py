"""What the daemon's requests came to, told to the operator piece by piece, so that nothing is told twice."""

from __future__ import annotations

from typing import Any

from slmops.device.places import Places
from slmops.telemetry import capture, spool
from slmops.telemetry.events import pack

MOST = 20_000
"""Events in one answer: some two megabytes."""
FEW = 50
"""Samples in one answer: they are texts."""


def telemetry(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return {spool, served, events, last, dropped}: events after number `after`, as `events.pack` has them.

    `spool` in the request is the one that `after` is of: of another all is told. `limit` is how many at most;
    `last` the highest number there is, `dropped` how many went before anybody asked.
    """
    limit = min(int(said.get("limit", MOST)), MOST)
    found = spool.read(places.spool, int(said.get("after", 0)), limit, str(said.get("spool", "")))
    return {"spool": found.name, **pack(found.events), "last": found.last, "dropped": found.dropped}


def samples(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return {spool, samples, last}: prompts and answers kept after number `after`; as `telemetry`."""
    limit = min(int(said.get("limit", FEW)), FEW)
    found = capture.read(places.spool, int(said.get("after", 0)), limit, str(said.get("spool", "")))
    return {"spool": found.name, "samples": found.samples, "last": found.last}

"""An agent puts itself in the place of the one before it, or leaves that one where it is.

The one rename of a link decides: before it the old agent is in force, after it the new one. A supervisor of
the old one hands over by becoming the new one, daemon and all; one that does not is given its old agent back.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from slmops import __version__
from slmops import digest as digests
from slmops.device import journal, service, supervise
from slmops.device.places import Places, read_json, sync_folder
from slmops.errors import DeviceError, IntegrityError

PATIENCE = 10.0
"""Seconds that a supervisor has to hand over."""


def update_self(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Make the agent that is asked the one in force.

    Returns {agent, before, version, supervisor}: tags, and whether a supervisor handed over or none runs.
    """
    own = Path(sys.argv[0]).resolve()
    if not digests.hexdigits(digests.of_file(own)).startswith(own.stem):
        raise IntegrityError(f"{own.name} is not what its name says", remedy="Push the agent again.")
    mine = f"agent/{own.name}"
    with journal.locked(places):
        before = supervise.in_force(places)
        point(places, mine)
        handed = service.nudge(places)
        if handed and not _handed_over(places, mine):
            if before is not None and (places.root / before).is_file():
                point(places, before)
                service.ensure(places, places.read_config())
            raise DeviceError(
                f"the supervisor did not take {own.stem}; the agent before it is in force",
                remedy="See its log: slmops device logs --of supervisor.",
            )
    return {
        "agent": own.stem,
        "before": Path(before).stem if before else None,
        "version": __version__,
        "supervisor": "handed over" if handed else "none runs",
    }


def point(places: Places, agent: str) -> None:
    """Put an agent, named relative to the root, in force."""
    if supervise.in_force(places) == agent:
        return
    fresh = places.root / ".agent.new"
    if fresh.is_symlink():
        fresh.unlink()
    fresh.symlink_to(agent)
    fresh.replace(places.agent_link)
    sync_folder(places.root)


def _handed_over(places: Places, mine: str) -> bool:
    """Wait until the supervisor runs the agent `mine`; say whether it came to that."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (read_json(places.supervisor) or {}).get("agent") == mine and service.nudge(places):
            return True
        time.sleep(0.02)
    return False

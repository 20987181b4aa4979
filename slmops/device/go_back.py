"""Go back to what served before: the journal says so first, then the links follow.

It does not know who decides that, nor who sees that the way back answers. Law: what leads to files that are
not here is no way back.
"""

from __future__ import annotations

from typing import Any

from slmops.device import boots, journal, slots
from slmops.device.places import Places
from slmops.device.trial import Standing

MESSAGE = 500
"""Letters of a message that the journal keeps: on a full disk its record must fit into what is set aside."""


def leads_back(places: Places, back: Standing) -> bool:
    """Say whether what a way back leads to can serve: its slot is whole, and what it runs from is here."""
    return back.slot is not None and has_runtime(places, back) and slots.is_whole(places, back.slot)


def has_runtime(places: Places, back: Standing) -> bool:
    """Say whether the runtime bundle that a standing runs from is here, if it runs from one."""
    runtime = (back.settings or {}).get("runtime_slot")
    return runtime is None or (places.runtimes / runtime).is_dir()


def go_back(
    places: Places, code: str, message: str, evidence: dict[str, Any], rollout: str | None = None
) -> Standing:
    """Go back to what served before, alone or for a `rollout`; the caller holds the device's lock."""
    here = journal.standing(places)
    said = {"slot": here.slot, "boot": boots.identity(), "code": code, "evidence": evidence}
    standing = journal.append(places, "rolled_back", **said, message=message[:MESSAGE], rollout=rollout)
    slots.point(places, standing)
    return standing

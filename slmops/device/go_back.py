"""Go back to what served before: the journal says so first, then the links follow.

It does not know who decides that, nor who sees that the way back answers.
"""

from __future__ import annotations

from typing import Any

from slmops.device import boots, journal, slots
from slmops.device.places import Places
from slmops.device.trial import Standing

MESSAGE = 500
"""Letters of a message that the journal keeps: on a full disk its record must fit into what is set aside."""


def go_back(
    places: Places, code: str, message: str, evidence: dict[str, Any], rollout: str | None = None
) -> Standing:
    """Go back to what served before, alone or for a `rollout`; the caller holds the device's lock."""
    here = journal.standing(places)
    said = {"slot": here.slot, "boot": boots.identity(), "code": code, "evidence": evidence}
    standing = journal.append(places, "rolled_back", **said, message=message[:MESSAGE], rollout=rollout)
    slots.point(places, standing)
    return standing

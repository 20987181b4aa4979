"""Shun what has failed on this device too often, tell what is shunned, and forgive it.

What counts as a failure is `quarantine`'s to say. Law: what serves is never touched, and the way back never
asks here; whoever is not told the terms of a quarantine is not bound by one.
"""

from __future__ import annotations

import time
from typing import Any

from slmops.device import journal, quarantine
from slmops.device.places import Places
from slmops.errors import QuarantinedError


def require_forgiven(places: Places, slot: str, said: dict[str, Any]) -> None:
    """Raise QuarantinedError when a slot may not be tried now, on the terms `quarantine` {after, seconds}."""
    terms = quarantine.terms(said.get("quarantine"))
    case = quarantine.cases(journal.read(places.journal)).get(slot) if terms is not None else None
    end = quarantine.until(case, terms, time.time()) if case is not None and terms is not None else None
    if case is not None and end is not None:
        times = "once" if case.failures == 1 else f"{case.failures} times"
        raise QuarantinedError(
            f"slot {slot[:12]} failed here {times}, last because {case.why}; "
            f"it is not tried again before {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime(end))}"
        )


def told(places: Places) -> dict[str, Any]:
    """Return what is shunned now, on the terms that it was tried on last: {slot: {failures, until, why}}."""
    now, found = time.time(), {}
    for slot, case in quarantine.cases(journal.read(places.journal)).items():
        end = quarantine.until(case, case.terms, now) if case.terms is not None else None
        if end is not None:
            found[slot] = {"failures": case.failures, "until": end, "why": case.why}
    return found


def forgive(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Let `slot`, or every slot where that is null, be tried again; return {forgiven: [slot]}."""
    with journal.locked(places):
        held = quarantine.cases(journal.read(places.journal))
        slot = said.get("slot")
        found = sorted(held) if slot is None else [slot] if slot in held else []
        if found:
            journal.append(places, "forgiven", slot=slot)
            places.bulletin.unlink(missing_ok=True)
    return {"forgiven": found}

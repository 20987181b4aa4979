"""How the router is brought from what it holds to what the standing wants: the next verb, and no more.

A router holds versions and three labels that say which of them serves, which served before and which is
looked at beside it. The standing says where the labels belong. Pure: who asks the router is `pilot`.

Laws: from any status, doing each next verb comes to an end where the labels are as wanted; nothing is dropped
that serves; a slot on trial that has not passed its gate here is never promoted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmops.device.trial import Standing
from slmops.way import differing

CURRENT, PREVIOUS, CANDIDATE = "current", "previous", "candidate"
LOAD, GATE, PROMOTE, ROLLBACK, DROP = "load", "gate", "promote", "rollback", "drop"


@dataclass(frozen=True)
class Verb:
    """What the router is asked to do, and with which slot."""

    name: str
    slot: str


def labels(standing: Standing) -> dict[str, str]:
    """Return the slot that each label belongs to; none where nothing is to serve.

    Two slots stand beside each other only in a trial, and only where both are run the same way: one router
    has one runtime.
    """
    if standing.slot is None:
        return {}
    before = standing.before
    if standing.trial is None or before is None or before.slot in (None, standing.slot):
        return {CURRENT: standing.slot}
    if differing(standing.settings, before.settings):
        return {CURRENT: standing.slot}
    if standing.trial.proved:
        return {CURRENT: standing.slot, PREVIOUS: str(before.slot)}
    return {CURRENT: str(before.slot), CANDIDATE: standing.slot}


def following(status: Mapping[str, Any], wanted: Mapping[str, str]) -> Verb | None:
    """Return the verb that comes next; None when all is as wanted, or when it is a load that is waited for.

    `status` is the router's own ({labels: {label: digest}, versions: [{digest, state, resident, gated}]});
    `wanted` is what `labels` gave, and names what is to serve.
    """
    said, versions = status["labels"], {slot_of(each["digest"]): each for each in status["versions"]}
    held = {slot for slot, each in versions.items() if each.get("resident")}
    serving = slot_of(said[CURRENT]) if said.get(CURRENT) else None
    strays = sorted(held - {serving, *wanted.values()})
    if strays:
        return Verb(DROP, strays[0])
    if any(versions[slot].get("state") == "loading" for slot in held):
        return None
    slot, candidate = wanted[CURRENT], wanted.get(CANDIDATE)
    if slot not in held and (serving != slot or candidate not in held):
        return Verb(LOAD, slot)
    if serving != slot:
        return _move(slot, versions[slot], said)
    if candidate is not None and candidate not in held:
        return Verb(LOAD, candidate)
    return None


def _move(slot: str, version: Mapping[str, Any], said: Mapping[str, str]) -> Verb:
    """Return what brings `current` to a slot that is loaded: the standing says that it may serve."""
    if said.get(PREVIOUS) and slot_of(said[PREVIOUS]) == slot:
        return Verb(ROLLBACK, slot)
    return Verb(PROMOTE if version.get("gated") else GATE, slot)


def slot_of(digest: str) -> str:
    """Return the slot's name: the digest without its algorithm."""
    return digest.rpartition(":")[2]


def version(status: Mapping[str, Any] | None, slot: str) -> Mapping[str, Any]:
    """Return what a router says of a slot; nothing where it knows none."""
    found = (each for each in (status or {}).get("versions", []) if slot_of(each["digest"]) == slot)
    return next(found, {})

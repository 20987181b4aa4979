"""Which artifacts have failed on this device too often to be tried again soon: a fold over the journal.

Theory. The journal already says how every trial ended, is synced, and survives reboots; to count it anew each
time needs no second file that could say otherwise. What counts is a trial that ended because of what was on
trial, or may well have: it failed its gate, its daemon kept ending, it was not ready in time, the machine
booted anew under it, or it passed and nobody came to confirm it (a release may be what cut the device off).
What does not count: an operator's own way back, a gate that was inconclusive or could not be held, files that
rotted, an agent that was killed before there was a verdict, a slot that served before and was to be run
another way, and whatever was refused before it was activated (a full disk, a lock): none of them says
anything of the artifact.

Laws: a slot that is confirmed, or forgiven, begins at nothing; a quarantine ends by itself, `seconds` after
the last failure and never later than `seconds` from now, whatever the clock did; records of an unknown kind
change nothing. Times are Unix times: what must outlive a boot cannot be counted in a boot's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from slmops.device import trial
from slmops.device.trial import Standing
from slmops.errors import DeviceError

BLAMELESS = ("OPERATOR", "GATE_BROKEN", "GATE_INCONCLUSIVE", trial.ROTTEN)
"""Codes of a way back that say nothing of the artifact."""
LONGEST = 1e9
"""Seconds of a quarantine at most: an end that no calendar has could not be told."""
UNHEARD = "CONFIRM_TIMEOUT"
"""The code of a trial whose time was up."""


@dataclass(frozen=True)
class Terms:
    """After how many failures an artifact is not tried again, and for how long."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """What is held against a slot."""

    failures: int = 0
    last: float = 0.0
    """Unix time of the last failure."""
    why: str = ""
    """The last one, in words."""
    terms: Terms | None = None
    """On what terms it was tried last; None where nobody said."""


def terms(said: Any) -> Terms | None:
    """Read `quarantine` of a request: {after, seconds}, or nothing; raise DeviceError when it is neither."""
    if said is None:
        return None
    try:
        found = Terms(after=int(said["after"]), seconds=float(said["seconds"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeviceError(f"quarantine: expected after and seconds, got {str(said)[:60]!a}") from error
    if found.after < 1 or not 0 <= found.seconds <= LONGEST:
        raise DeviceError(f"quarantine: expected at least one failure and some seconds, got {found}")
    return found


def cases(records: Iterable[dict[str, Any]]) -> dict[str, Case]:
    """Return what is held against each slot after these records."""
    found: dict[str, Case] = {}
    for standing, record in _with_the_standing_before(records):
        kind, slot = record.get("kind"), record.get("slot")
        if kind == "activated":
            found[str(slot)] = replace(found.get(str(slot), Case()), terms=_terms(record.get("quarantine")))
        elif kind == "rolled_back" and slot == standing.slot and _counts(standing, record):
            case = found.get(str(slot), Case())
            why = f"{record.get('message')} ({record.get('code')})"
            found[str(slot)] = replace(
                case, failures=case.failures + 1, last=float(record.get("at", 0.0)), why=why
            )
        elif kind == "confirmed" or (kind == "forgiven" and slot is not None):
            found.pop(str(slot), None)
        elif kind == "forgiven":
            found.clear()
    return {slot: case for slot, case in found.items() if case.failures}


def until(case: Case, terms: Terms, now: float) -> float | None:
    """Return when a slot may be tried again, in Unix time; None where it may be now."""
    end = min(case.last, now) + terms.seconds
    return end if case.failures >= terms.after and now < end else None


def _with_the_standing_before(
    records: Iterable[dict[str, Any]],
) -> Iterator[tuple[Standing, dict[str, Any]]]:
    standing = Standing()
    for record in records:
        yield standing, record
        standing = trial.step(standing, record)


def _counts(standing: Standing, record: dict[str, Any]) -> bool:
    """Say whether a way back is held against the slot that was left."""
    if standing.trial is None or record.get("code") in BLAMELESS:
        return False
    if standing.before is not None and standing.before.slot == standing.slot:
        return False
    if record.get("code") != UNHEARD:
        return True
    # Agents before this one did not write down in which boot they went back.
    booted = record.get("boot") not in (None, standing.trial.boot)
    return standing.trial.proved or booted


def _terms(said: Any) -> Terms | None:
    try:
        return terms(said)
    except DeviceError:
        return None

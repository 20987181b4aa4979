"""Which slot serves, and whether it is on trial: a fold over the journal.

Theory. The journal is the truth and the links `current` and `previous` follow it: a record is
written and synced before a link moves, and whoever comes next points the links where the
journal says. So a power cut between the two changes nothing.

    activated    a slot serves, on trial; the one before it stays as the way back
    proved       it passed its gate here; now somebody must confirm it in time
    confirmed    the trial is over: the slot is committed
    restarted    a committed slot that did not answer is started anew
    rolled_back  the slot before serves again

Laws: a fold of any prefix names a slot that was activated, or none; no slot is confirmed that was
not proved, and a confirmed one is on trial no more; rolling back a trial restores exactly the
standing before it; records of an unknown kind change nothing (a newer agent may have written them).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Trial:
    """An activation that nobody has confirmed yet."""

    boot: str
    """Identity of the boot it began in: a reboot ends the trial."""
    deadline: float
    """Seconds of the monotonic clock of that boot."""
    proved: bool = False
    """It passed its gate and may be confirmed."""


@dataclass(frozen=True)
class Standing:
    """Where a device stands."""

    slot: str | None = None
    previous: str | None = None
    trial: Trial | None = None
    since: float = 0.0
    """Unix time of the last change of slot."""
    settings: dict[str, Any] | None = None
    """How the slot's daemon is run (runtime, port): each slot keeps its own, so that the way back
    never depends on what came after it."""
    previous_settings: dict[str, Any] | None = None
    before: Standing | None = None
    """The standing a rolled-back trial returns to."""
    failure: dict[str, Any] | None = None
    """Why the last rollback happened: slot, code, message, evidence."""


def fold(records: Iterable[dict[str, Any]]) -> Standing:
    """Return where the device stands after these records."""
    standing = Standing()
    for record in records:
        standing = step(standing, record)
    return standing


def step(standing: Standing, record: dict[str, Any]) -> Standing:
    """Return the standing after one record."""
    kind = record.get("kind")
    if kind == "activated":
        return _activated(standing, record)
    if kind == "proved" and record.get("slot") == standing.slot and standing.trial is not None:
        return replace(standing, trial=Trial(boot=record["boot"], deadline=record["deadline"], proved=True))
    if kind == "confirmed" and record.get("slot") == standing.slot and _may_be_confirmed(standing):
        return replace(standing, trial=None, before=None, failure=None)
    if kind == "restarted" and record.get("slot") == standing.slot:
        return replace(standing, since=record["at"], settings=record.get("settings"))
    if kind == "rolled_back" and record.get("slot") == standing.slot:
        return _rolled_back(standing, record)
    return standing


def _may_be_confirmed(standing: Standing) -> bool:
    return standing.trial is None or standing.trial.proved


def expired(standing: Standing, boot: str, now: float) -> bool:
    """Say whether an unconfirmed trial has had its time; `now` is this boot's monotonic clock."""
    trial = standing.trial
    return trial is not None and (trial.boot != boot or now >= trial.deadline)


def _activated(standing: Standing, record: dict[str, Any]) -> Standing:
    committed = standing if standing.trial is None else (standing.before or Standing())
    # A slot is never its own way back: activating the committed one keeps the way back it has.
    again = record["slot"] == committed.slot
    return Standing(
        slot=record["slot"],
        previous=committed.previous if again else committed.slot,
        trial=Trial(boot=record["boot"], deadline=record["deadline"]),
        since=record["at"],
        settings=record.get("settings"),
        previous_settings=committed.previous_settings if again else committed.settings,
        before=replace(committed, failure=None),
    )


def _rolled_back(standing: Standing, record: dict[str, Any]) -> Standing:
    committed = Standing(slot=standing.previous, settings=standing.previous_settings)
    to = standing.before if standing.trial is not None else committed
    failure = {key: record.get(key) for key in ("slot", "code", "message", "evidence", "at")}
    return replace(to or Standing(), since=record["at"], failure=failure)

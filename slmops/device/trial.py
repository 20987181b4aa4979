"""Which slot serves, and whether it is on trial: a fold over the journal.

Theory. The journal is the truth and the links `current` and `previous` follow it: a record is
written and synced before a link moves, and whoever comes next points the links where the
journal says. So a power cut between the two changes nothing.

    activated    a slot is on trial: it is looked at beside the one that serves, which stays the way back
    proved       it passed its gate here and serves; now somebody must confirm it in time. Where live answers
                 are to be watched first, a second one says that they were
    confirmed    the trial is over: the slot is committed
    restarted    a committed slot that did not answer is started anew
    rolled_back  the slot before serves again, or this one as it was run before
    forgotten    the slot before has rotted and is a way back no more
    restored     the journal was lost; what a second copy knows to be committed serves

Laws: a fold of any prefix names a slot that was activated or restored, or none; no slot is confirmed that was
not proved, and a confirmed one is on trial no more; rolling back a trial restores exactly the
standing before it; a slot that was changed in how it is run goes back to how it was run before it goes back
to another, unless it has rotted; records of an unknown kind change nothing (a newer agent may have written
them).
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
    """It passed its gate and serves."""
    watched: bool = False
    """What it answered live was looked at, where that was asked for: it may be confirmed."""


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
    earlier: dict[str, Any] | None = None
    """How this very slot was run before, where it was changed since it came: the nearest way back."""
    moved: dict[str, Any] | None = None
    """What led here last: the `kind` of its record, activated or rolled_back, and which `rollout` asked for
    it. None where an agent of before wrote it."""
    before: Standing | None = None
    """The standing a rolled-back trial returns to."""
    failure: dict[str, Any] | None = None
    """Why the last rollback happened: slot, code, message, evidence, and which `rollout` asked for it."""
    restarted: float = 0.0
    """Unix time at which the committed slot was last to be started anew: what runs since before must end."""


ROTTEN = "ROTTEN"
"""The code of a way back from files that have rotted: no other way of running them helps."""
COMMITTED = (
    *("slot", "previous", "since", "settings", "previous_settings", "earlier", "moved", "failure"),
    "restarted",
)
"""What there is to say of a standing that is not on trial."""


def fold(records: Iterable[dict[str, Any]], start: Standing | None = None) -> Standing:
    """Return where the device stands after these records; `start` is where it stood before them."""
    standing = start or Standing()
    for record in records:
        standing = step(standing, record)
    return standing


def step(standing: Standing, record: dict[str, Any]) -> Standing:
    """Return the standing after one record."""
    change = _STEPS.get(str(record.get("kind")))
    return change(standing, record) if change else standing


def committed(said: dict[str, Any]) -> Standing:
    """Return a committed standing from its `slot`, `previous`, `since`, settings and failure."""
    # What an agent of before kept does not say when it was restarted.
    return Standing(**{key: said[key] for key in COMMITTED if key in said})


def going_back(standing: Standing, code: str = "") -> Standing:
    """Return the standing that a rollback now would lead to; the same daemon keeps its `since`."""
    return step(standing, {"kind": "rolled_back", "slot": standing.slot, "at": standing.since, "code": code})


def may_be_brought_by(standing: Standing, rollout: str) -> bool:
    """Say whether a rollout brought what serves, as it serves, as far as that was written down."""
    return standing.moved in (None, {"kind": "activated", "rollout": rollout})


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
        # An agent of before kept nothing to run it from as it was run before.
        earlier=record.get("earlier") or (committed.earlier if again else None),
        moved=_moved(record),
        before=replace(committed, failure=None),
        restarted=committed.restarted,
    )


def _proved(standing: Standing, record: dict[str, Any]) -> Standing:
    if record.get("slot") != standing.slot or standing.trial is None:
        return standing
    # An agent of before watched first, and said it once.
    trial = Trial(record["boot"], record["deadline"], proved=True, watched=record.get("watched", True))
    return replace(standing, trial=trial)


def _confirmed(standing: Standing, record: dict[str, Any]) -> Standing:
    unproved = standing.trial is not None and not (standing.trial.proved and standing.trial.watched)
    if record.get("slot") != standing.slot or unproved:
        return standing
    return replace(standing, trial=None, before=None, failure=None)


def _restarted(standing: Standing, record: dict[str, Any]) -> Standing:
    if record.get("slot") != standing.slot:
        return standing
    return replace(standing, since=record["at"], restarted=record["at"], settings=record.get("settings"))


def _rolled_back(standing: Standing, record: dict[str, Any]) -> Standing:
    if record.get("slot") != standing.slot:
        return standing
    failure = {key: record.get(key) for key in ("slot", "code", "message", "evidence", "at", "rollout")}
    return replace(_way_back(standing, record), since=record["at"], failure=failure)


def _way_back(standing: Standing, record: dict[str, Any]) -> Standing:
    if standing.trial is not None:
        return standing.before or Standing()
    if standing.earlier is not None and record.get("code") != ROTTEN:
        return replace(standing, settings=standing.earlier, earlier=None, moved=_moved(record))
    return Standing(slot=standing.previous, settings=standing.previous_settings, moved=_moved(record))


def _moved(record: dict[str, Any]) -> dict[str, Any]:
    return {"kind": record["kind"], "rollout": record.get("rollout")}


def _forgotten(standing: Standing, record: dict[str, Any]) -> Standing:
    if record.get("slot") != standing.previous or standing.trial is not None:
        return standing
    return replace(standing, previous=None, previous_settings=None)


def _restored(_standing: Standing, record: dict[str, Any]) -> Standing:
    return committed(record["standing"])


_STEPS = {
    "activated": _activated,
    "proved": _proved,
    "confirmed": _confirmed,
    "restarted": _restarted,
    "rolled_back": _rolled_back,
    "forgotten": _forgotten,
    "restored": _restored,
}

"""Look whether everything on a device is as it was left, and mend what can be mended.

Every byte of every slot is read. Laws: what serves stays served, unless it has rotted and the slot before it
is whole; nothing that is not slmops' own is touched; a second look after mending finds only what it could not
mend. The whole look holds the device's lock: nobody changes what is being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.device import damage, journal, leftovers, line, runtimes, service, slots, trust
from slmops.device.go_back import go_back, has_runtime, leads_back
from slmops.device.places import Places, read_json
from slmops.device.trial import ROTTEN, Standing, going_back
from slmops.errors import DeviceError, IntegrityError, SlmopsError

REPAIR = "slmops device fsck --repair"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was left."""

    where: str
    """Relative to the agent's directory."""
    wrong: str
    mend: Callable[[], object] | None = None
    """What to do about it; None where the device alone can do nothing."""
    advice: str = ""
    """What a person can do then."""


def fsck(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Look at everything; with `repair`, mend it.

    Returns {findings: [{where, wrong, mended, advice}], clean, slots, bytes}: `clean` when nothing is wrong
    any more, `bytes` read of slots.
    """
    repair = bool(said.get("repair"))
    with journal.locked(places):
        told = [_mended(each) if repair and each.mend else _told_of(each) for each in _findings(places)]
        names = slots.names(places)
        size = sum(blob.size for name in names for _, blob in slots.holding(places, name))
    clean = all(each["mended"] for each in told)
    return {"findings": told, "clean": clean, "slots": len(names), "bytes": size}


def _told_of(finding: Finding) -> dict[str, Any]:
    advice = finding.advice or (REPAIR if finding.mend else "")
    return {"where": finding.where, "wrong": finding.wrong, "mended": False, "advice": advice}


def _mended(finding: Finding) -> dict[str, Any]:
    """Mend a finding; what cannot be mended is told as that, and the look goes on."""
    try:
        if finding.mend is not None:
            finding.mend()
    except (SlmopsError, OSError) as error:
        return {**_told_of(finding), "wrong": f"{finding.wrong}; it cannot be mended: {error}"}
    return {**_told_of(finding), "mended": True, "advice": ""}


def _findings(places: Places) -> Iterator[Finding]:
    """Yield what is wrong, in an order in which each may be mended before the next is looked for."""
    yield from _told(places)
    yield from _journal(places)
    for slot in slots.names(places):
        line.note({"step": "reading", "slot": slot})
        yield from _slot(places, slot)
    yield from _missing(places, journal.standing(places))
    yield from _runtimes(places)
    yield from _links(places, journal.standing(places))
    for torn in leftovers.torn(places):
        yield Finding(_name(places, torn), "it was never finished", partial(leftovers.remove, torn))
    for folder in slots.abandoned(places):
        yield Finding(_name(places, folder), "it began to arrive long ago", partial(leftovers.remove, folder))


def _told(places: Places) -> Iterator[Finding]:
    """Look at what the device was told, and at the agent itself."""
    again = "slmops deploy: it tells the device again"
    if read_json(places.config) is None:
        yield Finding("config.json", "it is missing or no JSON", advice=again)
    try:
        trust.in_force(places)
        trust.floor(places, "")
    except IntegrityError as error:
        yield Finding("trust", str(error), advice=error.remedy)
    agent = places.agent_link.resolve()
    if not agent.is_file():
        yield Finding("agent.pyz", "there is no agent in force", advice=again)
    elif not digests.hexdigits(digests.of_file(agent)).startswith(agent.stem):
        yield Finding(_name(places, agent), "the agent has rotted", advice=again)
    if places.journal.exists() and not places.reserve.exists():
        yield Finding("reserve", "no bytes are set aside for a full disk", partial(journal.set_aside, places))


def _journal(places: Places) -> Iterator[Finding]:
    lost = journal.lost(places)
    if lost:
        yield Finding("journal.jsonl", lost, partial(journal.mend, places))
    count = journal.rotten(places.journal)
    if count:
        wrong = f"{count} of its lines are no records"
        yield Finding("journal.jsonl", wrong, partial(journal.rewrite, places))
    if journal.lacks_copy(places):
        yield Finding("committed.json", "it is missing or has rotted", partial(journal.copy, places))


def _slot(places: Places, slot: str) -> Iterator[Finding]:
    try:
        slots.verify(places, slot)
        entries = slots.release(places, slot).artifacts
    except (IntegrityError, OSError) as error:
        slots.forget_whole(places)
        yield _rotten(places, slot, str(error))
        return
    if slot not in [digests.hexdigits(entry.blob.digest) for _, entry in entries]:
        yield _rotten(places, slot, "the release it came with does not list it")
    elif slot != journal.standing(places).slot:
        damage.forget(places, slot)
    elif slot in damage.known(places):
        wrong = "its files are whole again, and its daemon was started on the rotten ones"
        yield Finding(f"slots/{slot}", wrong, partial(_restart, places, slot))


def _rotten(places: Places, slot: str, wrong: str) -> Finding:
    """Remember that a slot has rotted; return what is to be done about it."""
    slots.note_rotten(places, slot, wrong)
    standing, where = journal.standing(places), f"slots/{slot}"
    back = going_back(standing, ROTTEN)
    if slot not in slots.needed(standing):
        return Finding(where, wrong, partial(slots.drop, places, slot))
    if slot == standing.slot != back.slot and leads_back(places, back):
        return Finding(where, wrong, partial(_leave, places, slot))
    if slot == standing.previous and standing.trial is None:
        return Finding(where, wrong, partial(_forget, places, slot))
    return Finding(where, wrong, advice="slmops deploy: it sends the rotten files again")


def _leave(places: Places, slot: str) -> None:
    """Go back from a slot that has rotted, and remove it once nothing leads to it."""
    standing = go_back(places, ROTTEN, "its files have rotted", {})
    service.nudge(places)
    if slot not in slots.needed(standing):
        slots.drop(places, slot)


def _restart(places: Places, slot: str) -> None:
    journal.append(places, "restarted", slot=slot, settings=journal.standing(places).settings)
    damage.forget(places, slot)
    service.nudge(places)


def _forget(places: Places, slot: str) -> None:
    slots.point(places, journal.append(places, "forgotten", slot=slot))
    slots.drop(places, slot)


def _missing(places: Places, standing: Standing) -> Iterator[Finding]:
    """Look whether there is a slot for every name that the journal speaks of."""
    for role, slot in (("serves", standing.slot), ("is the way back", standing.previous)):
        if slot is None or places.slot(slot).is_dir():
            continue
        mend = None
        if slot == standing.previous and standing.trial is None:
            mend = partial(_forget_missing, places, slot)
        elif slot == standing.slot and _is_here(places, going_back(standing, ROTTEN)):
            mend = partial(_leave_missing, places)
        yield Finding(
            f"slots/{slot}", f"it {role} and is not there", mend, "slmops deploy: it sends it again"
        )


def _is_here(places: Places, back: Standing) -> bool:
    return back.slot in slots.names(places) and has_runtime(places, back)


def _forget_missing(places: Places, slot: str) -> None:
    slots.point(places, journal.append(places, "forgotten", slot=slot))


def _leave_missing(places: Places) -> None:
    go_back(places, ROTTEN, "its slot is gone", {})
    service.nudge(places)


def _runtimes(places: Places) -> Iterator[Finding]:
    """Look at the runtimes that daemons run from: each can be unpacked again from its slot."""
    for slot in sorted(slots.runtimes_needed(journal.standing(places))):
        try:
            runtimes.verify(places, slot)
        except (IntegrityError, DeviceError, OSError) as error:
            mend = partial(_unpack, places, slot) if places.slot(slot).is_dir() else None
            yield Finding(f"runtimes/{slot}", str(error), mend, "slmops deploy: it sends the runtime again")


def _unpack(places: Places, slot: str) -> None:
    folder = places.runtimes / slot
    if folder.is_dir():
        slots.remove(folder)
    runtimes.unpack(places, slot, line.note)


def _links(places: Places, standing: Standing) -> Iterator[Finding]:
    for link, slot in ((places.current, standing.slot), (places.previous, standing.previous)):
        there = link.readlink().name if link.is_symlink() else None
        if there != slot:
            wrong = f"it points to {_short(there)}, the journal says {_short(slot)}"
            yield Finding(link.name, wrong, partial(slots.point, places, standing))


def _short(slot: str | None) -> str:
    return slot[:12] if slot else "nothing"


def _name(places: Places, path: Path) -> str:
    return str(path.relative_to(places.root))

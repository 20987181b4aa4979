"""Every verb that a device is asked in a rollout x error, kill, hang x enter, inside, leave: the table.

The cells come from `assignment.VERBS`, so that a state or a verb which is added is a cell that has no line
here, and is told. Each line says in which state the device ends and what its journal has gained when it
rests; more than one is named only where two honest outcomes race, and then why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from _fault_bed import Bed, until
from _fault_kills import SETTLED
from _fault_target import Target

from slmops.rollout.assignment import VERBS
from slmops.rollout.assignment import State as S  # noqa: N817 (as the tables themselves say it)

ENTER, INSIDE, LEAVE = POINTS = ("enter", "inside", "leave")
ERROR, KILL, HANG = KINDS = ("error", "kill", "hang")
BACK: Final = "back"
"""The column of the way back: all three, of the one verb that it has."""
NONE: Final = ()
"""What the journal of a device gains on which nothing was switched."""
TRIED, UNDONE = ("activated", "rolled_back"), ("activated", "proved", "rolled_back")
DONE, RETURNED = ("activated", "proved", "confirmed"), ("activated", "proved", "confirmed", "rolled_back")
Journal = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One fault at one point of one verb."""

    state: S
    verb: str
    do: str
    at: str


@dataclass(frozen=True)
class Lawful:
    """How a device may end that met a fault."""

    ends: frozenset[S]
    journals: frozenset[Journal]
    why: str = ""
    """Why there is more than one."""


def _only(end: S, journal: Journal) -> Lawful:
    return Lawful(frozenset({end}), frozenset({journal}))


_DELIVERY: Final = ("enroll", "prepare", "compare", "receive", "stage")
COMMITTED: Final = _only(S.COMMITTED, DONE)
REFUSED: Final = _only(S.FAILED, NONE)
LAWFUL: Final[dict[tuple[str, str, str], Lawful]] = {
    # Bytes may be sent twice; a refusal is taken at its word.
    **{(verb, ERROR, at): REFUSED for verb, at in product(_DELIVERY, POINTS)},
    **{(verb, KILL, at): COMMITTED for verb, at in product(_DELIVERY, POINTS)},
    **{(verb, HANG, at): _only(S.LOST, NONE) for verb, at in product(_DELIVERY[1:], POINTS)},
    **{
        ("enroll", HANG, at): Lawful(
            frozenset({S.COMMITTED, S.LOST}),
            frozenset({DONE, NONE}),
            "after a minute of silence it is asked again over a new connection, with half a minute left",
        )
        for at in POINTS
    },
    # A delta that does not become its file is followed by the file.
    **{("patch", do, at): COMMITTED for do, at in product((ERROR, KILL), POINTS)},
    **{("patch", HANG, at): _only(S.LOST, NONE) for at in POINTS},
    ("activate", ERROR, ENTER): REFUSED,
    ("activate", ERROR, INSIDE): Lawful(
        frozenset({S.FAILED}), frozenset({NONE, TRIED}), "the agent is struck before or after it has switched"
    ),
    ("activate", ERROR, LEAVE): _only(S.FAILED, UNDONE),
    ("activate", KILL, ENTER): REFUSED,
    ("activate", KILL, INSIDE): Lawful(
        frozenset({S.FAILED}), frozenset({NONE, TRIED}), "the agent is struck before or after it has switched"
    ),
    ("activate", KILL, LEAVE): _only(S.FAILED, UNDONE),
    ("activate", HANG, ENTER): _only(S.LOST, NONE),
    ("activate", HANG, INSIDE): Lawful(
        frozenset({S.LOST}), frozenset({NONE, TRIED}), "the agent is struck before or after it has switched"
    ),
    ("activate", HANG, LEAVE): _only(S.LOST, UNDONE),
    # Refused once it is asked again; what is refused twice goes back alone.
    ("confirm", ERROR, ENTER): _only(S.WENT_BACK, UNDONE),
    ("confirm", ERROR, INSIDE): COMMITTED,
    ("confirm", ERROR, LEAVE): COMMITTED,
    **{("confirm", KILL, at): COMMITTED for at in POINTS},
    ("confirm", HANG, ENTER): _only(S.WENT_BACK, UNDONE),
    ("confirm", HANG, INSIDE): Lawful(
        frozenset({S.WENT_BACK, S.COMMITTED}),
        frozenset({UNDONE, DONE}),
        "struck before or after it has committed",
    ),
    ("confirm", HANG, LEAVE): COMMITTED,
    ("roll-back", ERROR, ENTER): _only(S.STUCK, DONE),
    ("roll-back", ERROR, INSIDE): Lawful(
        frozenset({S.STUCK}), frozenset({DONE, RETURNED}), "struck before or after it has gone back"
    ),
    ("roll-back", ERROR, LEAVE): _only(S.STUCK, RETURNED),
    ("roll-back", KILL, ENTER): _only(S.STUCK, DONE),
    ("roll-back", KILL, INSIDE): Lawful(
        frozenset({S.STUCK}), frozenset({DONE, RETURNED}), "struck before or after it has gone back"
    ),
    ("roll-back", KILL, LEAVE): _only(S.STUCK, RETURNED),
    ("roll-back", HANG, ENTER): _only(S.STUCK, DONE),
    ("roll-back", HANG, INSIDE): Lawful(
        frozenset({S.STUCK}), frozenset({DONE, RETURNED}), "struck before or after it has gone back"
    ),
    ("roll-back", HANG, LEAVE): _only(S.STUCK, RETURNED),
}


def cells() -> list[Cell]:
    """Return every cell there is, from the table of states and verbs."""
    return [
        Cell(state, verb, do, at)
        for state, verbs in VERBS.items()
        for verb, do, at in product(verbs, KINDS, POINTS)
    ]


def devices() -> int:
    """Return how many devices play the largest of the matrix's deploys."""
    return max(len(played) for played in _deploys())


def _deploys() -> list[list[Cell]]:
    """Return the cells that are played side by side, one a device: those of one kind of fault, forwards.

    Those of the way back are played together, beside a device that makes the wave sick.
    """
    forwards = [cell for cell in cells() if cell.state is not S.COMMITTED]
    back = [cell for cell in cells() if cell.state is S.COMMITTED]
    return [*([cell for cell in forwards if cell.do == do] for do in KINDS), back]


def matrix(bed: Bed, say: Callable[[str], None], only: str = "") -> list[str]:
    """Play all cells; return what did not end as the table says."""
    # Of two releases of one noise the second is a small delta from the first.
    first = bed.release(noise="the same")
    if bed.operator(*bed.deploy(first)):
        return [f"an undisturbed deploy failed: {bed.operator.said()[-2000:]}"]
    broken: list[str] = []
    for played in _deploys():
        if only in ("", played[0].do if played[0].state is not S.COMMITTED else BACK):
            found = list(_play(bed, played))
            say(f"{len(played)} cells, {played[0].verb} to {played[-1].verb}: {len(found)} breaks")
            broken += found
    return broken


def _play(bed: Bed, played: list[Cell]) -> Iterator[str]:
    """Play cells side by side in one deploy; yield what is not as it must be."""
    release = bed.release(noise="the same")
    back = played[0].state is S.COMMITTED
    pairs = list(zip(bed.targets, played, strict=False))
    before = {target.name: (target.standing().slot, len(target.kinds())) for target in bed.targets}
    for target, cell in pairs:
        target.fault.write_text(json.dumps(_faults(cell)))
    sick = bed.targets[len(played)] if back else None
    bed.strategy(max_failures=0 if back else "100%")
    if sick is not None:
        bed.set_device(sick.name, runtime=str(bed.broken_runtime))
    bed.operator(*bed.deploy(release))
    ends = bed.states()
    told = {target.name: bed.evidence(target.name)["message"] for target in bed.targets}
    for target, cell in pairs:
        old, length = before[target.name]
        until(lambda target=target: bed.rests(target) and target.standing().trial is None, SETTLED)  # type: ignore[misc]
        yield from (f"{cell}: {text}" for text in bed.wrong(target, {old, bed.slots[release]}))
        for text in _unlawful(cell, target, ends[target.name], tuple(target.kinds()[length:])):
            yield f"{cell}: {text}; it was told: {told[target.name][-200:]!r}"
        target.fault.unlink()
    if sick is not None:
        bed.set_device(sick.name, runtime=str(bed.runtime))
    bed.strategy()
    if code := bed.go_on(release):
        yield f"deployed again, it ended with {code}: {bed.operator.said()[-700:]}"
    yield from bed.converged(release)


def _faults(cell: Cell) -> list[dict[str, object]]:
    """Return what the interposer is told.

    What a device holds is asked of it after a cut alone, and a confirmation is refused in vain only twice.
    """
    cut: dict[str, object] = {"verb": "receive", "at": INSIDE, "do": KILL, "times": 1}
    times = 2 if (cell.verb, cell.do, cell.at) == ("confirm", ERROR, ENTER) else 1
    fault: dict[str, object] = {"verb": cell.verb, "at": cell.at, "do": cell.do, "times": times}
    return [*([cut] if cell.verb == "compare" else []), fault]


def _unlawful(cell: Cell, target: Target, end: str, journal: Journal) -> Iterator[str]:
    """Yield how a device's end, or its journal, differs from the table."""
    if any(fault["times"] for fault in json.loads(target.fault.read_text())):
        yield "the fault never struck"
        return
    lawful = LAWFUL[cell.verb, cell.do, cell.at]
    if S(end) not in lawful.ends:
        yield f"it ended {end}, expected {sorted(state.value for state in lawful.ends)}"
    if journal not in lawful.journals:
        yield f"its journal gained {journal}, expected {sorted(lawful.journals)}"

"""Kill -9 at random times of real deploys: agents, sshd's sessions, daemons, supervisors, and the operator.

A round is one deploy to all devices at once, with two kills for each of them at U(0, 1.1 T), T being how long
a deploy takes that nobody disturbs; in some rounds the operator dies too, in some a device cannot run the
release, so that the whole wave goes back and is killed on its way. What a round does is drawn from its seed
and number alone.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from _fault_bed import PATIENCE, Bed, until
from _fault_target import Target, kill

AGENT, SESSION, DAEMON, SUPERVISOR, OPERATOR = "agent", "sshd session", "daemon", "supervisor", "operator"
ON_A_DEVICE: Final = (AGENT, SESSION, DAEMON, SUPERVISOR)
EACH: Final = 2
"""Kills that a device meets in a round."""
LATE: Final = 1.1
"""Times T until which kills come; LATER where a wave goes back as well."""
LATER: Final = 1.8
WITHOUT_OPERATOR, SICK = 0.35, 0.25
"""Shares of rounds in which the operator is killed, and in which the wave goes back."""
SETTLED: Final = 120.0
"""Seconds in which a device that nobody works on any more answers again."""


@dataclass(frozen=True)
class Stroke:
    """One kill."""

    what: str
    device: int | None
    """Place of the device in the fleet; None for the operator."""
    at: float
    """In times T."""


@dataclass(frozen=True)
class Plan:
    """What one round does."""

    strokes: tuple[Stroke, ...]
    sick: int | None
    """Place of the device that cannot run the release."""


@dataclass
class Tally:
    """What was killed, where it hit, and what broke."""

    rounds: int = 0
    kills: int = 0
    missed: int = 0
    """Strokes at a time at which what they were meant for did not run."""
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kills by what was killed and the state in which its device, or the rollout, was."""
    breaks: list[str] = field(default_factory=list)


def plan(seed: int, index: int, devices: int) -> Plan:
    """Draw what a round does."""
    dice = random.Random(f"{seed}:{index}")  # noqa: S311 (not for secrets)
    sick = dice.randrange(devices) if dice.random() < SICK else None
    late = LATE if sick is None else LATER
    strokes = [
        Stroke(dice.choice(ON_A_DEVICE), device, dice.uniform(0, late))
        for device in range(devices)
        for _ in range(EACH)
    ]
    if dice.random() < WITHOUT_OPERATOR:
        strokes.append(Stroke(OPERATOR, None, dice.uniform(0, late)))
    return Plan(tuple(sorted(strokes, key=lambda stroke: stroke.at)), sick)


def clean(bed: Bed) -> float:
    """Deploy twice undisturbed; return how long the second took."""
    taken = 0.0
    for _ in range(2):
        release = bed.release()
        began = time.monotonic()
        code = bed.operator(*bed.deploy(release, "--whole"))
        taken = time.monotonic() - began
        if code or (wrong := list(bed.converged(release))):
            raise RuntimeError(
                f"an undisturbed deploy ended with {code}: {wrong or bed.operator.said()[-2000:]}"
            )
    return taken


def campaign(bed: Bed, seed: int, *, kills: int, say: Callable[[str], None], first: int = 0) -> Tally:
    """Play rounds until so many kills have hit; each break is told with what replays it."""
    whole = clean(bed)
    say(f"an undisturbed deploy to {len(bed.targets)} devices takes {whole:.1f} s")
    tally = Tally()
    while tally.kills < kills:
        index = first + tally.rounds
        tally.rounds += 1
        for text in play(bed, plan(seed, index, len(bed.targets)), whole, tally):
            tally.breaks.append(f"{seed}:{index}: {text}")
            say(tally.breaks[-1][:600])
        if tally.rounds % 5 == 0:
            say(f"{tally.rounds} rounds, {tally.kills} kills, {len(tally.breaks)} breaks")
    return tally


def play(bed: Bed, planned: Plan, whole: float, tally: Tally) -> list[str]:
    """Play one round; return what broke."""
    release = bed.release()
    before = {target.name: target.standing() for target in bed.targets}
    sound = str(bed.runtime)
    bed.strategy(max_failures=0 if planned.sick is not None else "100%")
    if planned.sick is not None:
        bed.set_device(bed.targets[planned.sick].name, runtime=str(bed.broken_runtime))
    struck = _strike_while(bed, planned, release, whole, tally)
    if planned.sick is not None:
        bed.set_device(bed.targets[planned.sick].name, runtime=sound)
    broken: list[str] = []
    for target in bed.targets:
        old = before[target.name]
        # What was on trial when the round began may go back first.
        lawful = {old.slot, (old.before or old).slot, bed.slots[release]}
        broken += bed.wrong(target, lawful)
        try:
            until(lambda target=target: bed.rests(target), SETTLED)  # type: ignore[misc]
            # Nothing but a deploy or a boot starts the supervisor of a device that has no systemd again.
            if SUPERVISOR not in struck.get(target.name, ()) and before[target.name].slot is not None:
                until(target.answers, SETTLED)
        except TimeoutError:
            broken.append(f"{target.name}: after {SETTLED:.0f} s {_why_silent(target)}")
        broken += bed.wrong(target, lawful)
    bed.strategy()
    code = bed.go_on(release)
    if code:
        broken.append(f"the deploy, done again, ended with {code}: {bed.operator.said()[-700:]}")
    broken += bed.converged(release)
    if broken and (code := bed.operator(*bed.deploy(release))):
        broken.append(f"and a third time, it ended with {code}: {bed.operator.said()[-700:]}")
    return broken


def _strike_while(bed: Bed, planned: Plan, release: str, whole: float, tally: Tally) -> dict[str, set[str]]:
    """Deploy, and kill meanwhile; return what was killed on which device."""
    struck: dict[str, set[str]] = {}
    latest = bed.rollout()
    began = time.monotonic()
    bed.operator.start(*bed.deploy(release, "--whole"))
    running = True
    for stroke in planned.strokes:
        while (left := began + stroke.at * whole - time.monotonic()) > 0:
            running = running and bed.operator.ended(left) is None
            if not running:
                time.sleep(max(0.0, began + stroke.at * whole - time.monotonic()))
        where = _where(bed, stroke, latest)
        hit = _strike(bed, stroke)
        tally.kills += hit
        tally.missed += not hit
        if hit:
            tally.hits[stroke.what, where] += 1
        if hit and stroke.device is not None:
            struck.setdefault(bed.targets[stroke.device].name, set()).add(stroke.what)
    if running and bed.operator.ended(PATIENCE * 6) is None:
        raise TimeoutError("the deploy did not end")
    return struck


def _strike(bed: Bed, stroke: Stroke) -> bool:
    if stroke.device is None:
        return bed.operator.pid is not None and kill(bed.operator.pid)
    target = bed.targets[stroke.device]
    running = {
        AGENT: target.agents,
        SESSION: target.sessions,
        DAEMON: target.daemons,
        SUPERVISOR: target.supervisors,
    }
    return sum(kill(pid) for pid in running[stroke.what]()) > 0


def _where(bed: Bed, stroke: Stroke, latest: tuple[int, str] | None) -> str:
    """Return the state that a stroke meets; `latest` is the rollout before this one."""
    now = bed.rollout()
    if now is None or now[0] == (latest or (0, ""))[0]:
        return "looked at"
    if stroke.device is None:
        return now[1]
    return bed.states().get(bed.targets[stroke.device].name, "looked at")


def _why_silent(target: Target) -> str:
    return (
        f"agents {target.agents()}, supervisors {target.supervisors()}, daemons {target.daemons()}, "
        f"journal {target.kinds()[-4:]}"
    )

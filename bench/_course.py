"""Rollouts that never were: what history holds of one, for pictures and tests of what is shown of it.

Nothing is sent and nobody waits: devices take as long as chance says, chance comes from a seed, and the
clock is a number. Every row is what the machine and the assignments of a rollout would have written.
"""

import heapq
import random
from dataclasses import dataclass, field, replace
from typing import Any

from slmops.rollout.history import Entry, Happening, History, Line
from slmops.rollout.report import state_in

BEGAN = 1_790_000_000.0
PARALLEL = 10
SOAK = 30.0
FAILED = [{"question": "What is <b>2 + 2</b>?", "expected": "4", "answer": "<script>alert('five')</script>"}]
LOG = ["loading model.gguf", "golden prompt 1 of 5", "answered '<script>' where '4' was expected"]


@dataclass
class Course:
    """A rollout as history has it at one moment."""

    entry: Entry
    lines: list[Line]
    events: list[Happening]


@dataclass
class _Tape:
    """All that happens, by time."""

    events: list[tuple[float, str | None, str, dict[str, Any]]] = field(default_factory=list)

    def add(self, at: float, device: str | None, what: str, **evidence: Any) -> None:
        self.events.append((at, device, what, evidence))


def course(
    devices: int, *, sick: tuple[int, ...] = (), lost: tuple[int, ...] = (), until: float = 1e9, seed: int = 1
) -> Course:
    """Return a rollout over so many devices, `until` seconds after it began.

    Devices in `sick` (by number) fail their golden prompts, and their wave goes back; those in `lost` are
    not heard of again.
    """
    chance, tape = random.Random(seed), _Tape()  # noqa: S311 - not a secret
    names = [f"pump-{number:04d}" for number in range(devices)]
    ends = sorted({1, *(max(1, round(devices * share)) for share in (0.1, 0.5, 1.0))})
    waves = [names[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    bad, gone = {names[number] for number in sick}, {names[number] for number in lost}
    at = BEGAN
    tape.add(at, None, "checking")
    for number, wave in enumerate(waves):
        tape.add(at + 0.01, None, "rolling")
        at = _roll(tape, wave, at + 0.02, chance, bad=bad, gone=gone)
        if bad & set(wave):
            tape.add(at, None, "returning")
            for name in sorted(set(wave) - bad - gone):
                tape.add(at + 3, name, "returned serves parrot:1.2.0 again")
            tape.add(at + 3.5, None, "went back")
            break
        tape.add(at, None, "soaking")
        at += SOAK
        if number == len(waves) - 1:
            tape.add(at, None, "partial" if gone else "succeeded")
    return _rows(tape, waves, BEGAN + until)


def _roll(
    tape: _Tape, wave: list[str], at: float, chance: random.Random, *, bad: set[str], gone: set[str]
) -> float:
    """Let the devices of a wave go, some at once; return when the last one ended."""
    free = [at] * PARALLEL
    last = at
    for name in wave:
        now = heapq.heappop(free)
        sent = chance.randint(40_000_000, 60_000_000)
        tape.add(now, name, "sending")
        now += chance.uniform(4, 15)
        if name in gone:
            tape.add(now, name, "lost the link broke 5 times", code="SLM-UNREACHABLE", remedy="Run it again.")
        else:
            tape.add(now, name, "staged", sent=sent, whole_because=[])
            tape.add(now + 0.2, name, "trial")
            now += 0.2 + chance.uniform(5, 10)
            now = _judge(tape, name, now, chance, bad)
        heapq.heappush(free, now)
        last = max(last, now)
    return last


def _judge(tape: _Tape, name: str, now: float, chance: random.Random, bad: set[str]) -> float:
    speed, first = chance.uniform(9, 12), chance.uniform(0.2, 0.4)
    judged = [
        _row("logprob", 0.9 if name in bad else 0.004, 0.05, "bound", "fail" if name in bad else "pass"),
        _row("tokens_per_second", speed, 4.0, "promise", "pass"),
        _row("tokens_per_second", speed, 0.6 * speed + chance.uniform(-1, 1), "version before", "pass"),
        _row("time_to_first_token", first, 0.75, "version before", "pass"),
        _row("memory", 211e6, 256 * 2.0**20, "promise", "pass"),
        _row("error_rate", None, None, "bound", "not judged"),
    ]
    measured = {"time_to_first_token": first, "tokens_per_second": speed, "judged": judged}
    if name in bad:
        tape.add(now, name, "went back 1 of 5 golden prompts failed", code="GATE_QUALITY", failed=FAILED,
                 log=LOG, measured=measured)  # fmt: skip
        return now
    tape.add(now, name, "proved", measured=measured, attested={"digest": "sha256:" + "5e" * 32})
    tape.add(now + 0.6, name, "committed")
    return now + 0.6


def _row(what: str, value: float | None, bound: float | None, against: str, outcome: str) -> dict[str, Any]:
    return {"what": what, "value": value, "bound": bound, "against": against, "outcome": outcome}


def _rows(tape: _Tape, waves: list[list[str]], until: float) -> Course:
    happened = sorted((each for each in tape.events if each[0] <= until), key=lambda each: each[0])
    state, wave, changed = "planned", 0, BEGAN
    standing: dict[str, Line] = {
        name: Line(name, number, "waiting", "", {}, BEGAN)
        for number, names in enumerate(waves, 1)
        for name in names
    }
    for at, device, what, evidence in happened:
        if device is None:
            wave += what == "rolling" and state == "soaking"
            wave += what in ("succeeded", "partial")
            state, changed = what, at
        else:
            line = standing[device]
            word = state_in(what) or what
            standing[device] = Line(
                device, line.wave, word, what.removeprefix(word).strip(), {**line.evidence, **evidence}, at,
                {**line.entered, word: at},
            )  # fmt: skip
    for name, line in standing.items():
        if line.state == "sending":
            done = int(3_000_000 * (until - line.entered["sending"]))
            doing = {
                "step": "sending",
                "what": "model.gguf",
                "done": min(done, 48_000_000),
                "whole": 48_000_000,
            }
            standing[name] = replace(line, doing=doing)
        elif line.state == "trial":
            standing[name] = replace(line, doing={"step": "golden", "number": 2, "of": 5})
    entry = Entry(
        12, "berlin", "parrot:1.3.0", "sha256:" + "a1" * 32, state, wave, len(waves), BEGAN, changed,
        uid="9f2c6b10", epoch=1790000000, operator="ada@workshop",
        options={"file": "fleet.yaml", "strategy": {"max_parallel": PARALLEL}, "waves": _terms(len(waves))},
    )  # fmt: skip
    events = [Happening(number, at, device, what) for number, (at, device, what, _) in enumerate(happened, 1)]
    return Course(entry, list(standing.values()), events)


def _terms(waves: int) -> list[dict[str, Any]]:
    names = ["canary", "10%", "50%", "100%"][:waves]
    return [{"name": name, "soak": SOAK, "advance": "auto", "max_failures": 0} for name in names]


def keep(history: History, said: Course) -> int:
    """Write a rollout into a history by what a driver calls, as fast as that goes; return its number."""
    entry, found = said.entry, {line.device: line for line in said.lines}
    waves = [[line.device for line in said.lines if line.wave == wave] for wave in range(entry.waves + 1)]
    number = history.begin(
        entry.fleet, entry.release, entry.digest, waves, uid=entry.uid, epoch=entry.epoch,
        operator=entry.operator, options=entry.options,
    )  # fmt: skip
    for event in said.events:
        state = state_in(event.what)
        if event.device is None:
            history.moved(number, event.what, entry.wave)
        elif state is not None:
            message = event.what.removeprefix(state).strip()
            history.told(number, event.device, state, message, found[event.device].evidence)
    for line in said.lines:
        if line.doing:
            history.does(number, line.device, line.doing)
    return number

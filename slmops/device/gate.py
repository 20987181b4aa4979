"""Prove a slot on this device: it runs, it is the one meant, it answers as it should, and as fast.

It is asked by its name while another serves; what applications ask comes to it only once it has passed. The
verdict is pass, fail or inconclusive. What could not be asked never passes. What a busy device can make
look bad (speed) is looked at again before it counts, and so is what was in doubt. A daemon that ends once
under a question is in doubt, one that ends again has failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slmops.artifact import golden as goldens
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.artifact.golden import Golden
from slmops.device import admin, child, errors_seen, examine, journal, slots, steer, supervise, talk
from slmops.device import bounds as rules
from slmops.device.bounds import Bounds, Measured, Row
from slmops.device.examine import Paper
from slmops.device.places import Places, read_json
from slmops.device.trial import Standing
from slmops.errors import DeviceError, SlmopsError

Note = Callable[["dict[str, Any]"], None]
TRIES = 3
"""Rounds of golden prompts at most: one, unless a speed failed or something was in doubt."""
ASKED_AGAIN = 2
"""Ends of the daemon under examination that say of it what one, which anything may have caused, does not."""
BEFORE_SECONDS = 15.0
"""That the version before may be asked for: it serves meanwhile, but the switch waits."""


SERVING_SECONDS = 60.0
"""That the router has to let a slot serve that is loaded; what it answers then goes on."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    outcome: str
    """pass, fail or inconclusive."""
    code: str
    message: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What one slot showed, and what its rows say."""

    paper: Paper
    measured: Measured
    rows: list[Row]


def before(places: Places, slot: str, said: dict[str, Any]) -> Measured:
    """Time the version that serves now on the golden prompts of `slot`; nothing where there is none to time.

    It is not judged: one that answers with an error has no times, and nothing is held against them.
    """
    standing, wanted = journal.standing(places), Bounds.of(said.get("gate")).measure_before
    if not wanted or standing.slot in (None, slot) or standing.trial is not None:
        return Measured()
    try:
        there, coming = (slots.description(places, each) for each in (standing.slot, slot))
        if there.task != coming.task:
            return Measured()
        examiner = examine.of(places, standing.slot, there, BEFORE_SECONDS)
        paper = examiner.hurry(examine.read(places.files(slot), coming))
    except (SlmopsError, OSError, *talk.ODD):
        return Measured()
    return replace(paper.measured, memory=_memory(places, standing.slot, there))


def watched(said: dict[str, Any]) -> float:
    """Return how long, in seconds, live traffic is watched."""
    return Bounds.of(said.get("gate")).watch


def prove(
    places: Places,
    slot: str,
    said: dict[str, Any],
    note: Note,
    *,
    earlier: Measured,
    let_serve: Callable[[], None],
) -> Verdict:
    """Wait until the slot is loaded, then examine it; `note` is told of progress.

    `said` holds `ready_seconds` and `gate_seconds`, the time for each of the two, and `gate`, what is asked
    beyond right answers; `earlier` is what the version before showed. When it has answered well, `let_serve`
    is called, after which it must serve, and then live answers are watched.
    """
    refused = _await_ready(places, slot, said["ready_seconds"], note)
    if refused is not None:
        return refused
    mark, description = errors_seen.mark(places), slots.description(places, slot)
    bounds, prompts = Bounds.of(said.get("gate")), examine.read(places.files(slot), description)
    if bounds.references == rules.OFF:
        prompts = goldens.questions(prompts)
    end = time.monotonic() + said["gate_seconds"]
    sitting = _Sitting(places, slot, description, prompts, bounds, earlier, end, note)
    try:
        seen = sitting.hold()
        if not seen.paper.failed and rules.outcome(seen.rows) == rules.PASS:
            let_serve()
            _await_serving(places, slot)
            seen = sitting.with_errors(seen, errors_seen.watch(places, slot, mark, bounds.watch, note))
    except DeviceError as error:
        # By the time that it is back, or time is over, the supervisor has counted how often it ended.
        _await_ready(places, slot, end - time.monotonic(), note)
        return _without_an_answer(places, error)
    return _verdict(prompts, seen, earlier)


def _without_an_answer(places: Places, error: DeviceError) -> Verdict:
    """Return what a daemon that could not be examined has come to: one that ended each time has failed."""
    state, evidence = read_json(places.daemon) or {}, {"log": child.last_words(places)}
    if state.get("crashes", 0) >= ASKED_AGAIN:
        why = f"the daemon ended {state['crashes']} times while it was examined: {error}"
        return Verdict("fail", "RUN_CRASHLOOP", why, evidence)
    return Verdict("inconclusive", "GATE_INCONCLUSIVE", str(error), evidence)


def _await_ready(places: Places, slot: str, seconds: float, note: Note) -> Verdict | None:
    """Return None once the slot can be asked, else why it cannot."""
    end = time.monotonic() + seconds
    standing = journal.standing(places)
    note({"step": "starting"})
    while time.monotonic() < end:
        state = read_json(places.daemon) or {}
        if _is_of(state, standing):
            if _is_loaded(places, slot, state):
                return None
            if state.get("crashes", 0) >= supervise.CRASHES:
                return Verdict("fail", "RUN_CRASHLOOP", _ended(state), {"log": child.last_words(places)})
        time.sleep(0.05)
    why = f"the daemon was not ready within {seconds:.0f} s"
    return Verdict("fail", "ACT_TIMEOUT", why, {"log": child.last_words(places)})


def _is_loaded(places: Places, slot: str, state: dict[str, Any]) -> bool:
    """Say whether a slot can be asked, and the supervisor knows its process; `state` is what that wrote."""
    if not state.get("child"):
        return False
    if (state.get("router") or {}).get("steered"):
        seen = steer.version(admin.status(places), slot)
        known = (state.get("workers") or {}).get(slot)
        return bool(seen.get("resident")) and seen.get("state") == "ready" and seen.get("pid") == known
    # A daemon of the same slot that the supervisor is about to end answers too.
    return (talk.ready(places) or {}).get("digest") == f"sha256:{slot}"


def _ended(state: dict[str, Any]) -> str:
    """Return how often and how it ended, in words."""
    last, why = state.get("last_exit"), state.get("why")
    how = "" if last is None else f", last with exit code {last}"
    return f"the daemon ended {state['crashes']} times{how}" + (f": {why}" if why else "")


def _await_serving(places: Places, slot: str) -> None:
    """Wait until what applications ask comes to the slot; raise DeviceError when it does not."""
    end = time.monotonic() + SERVING_SECONDS
    while (talk.ready(places) or {}).get("digest") != f"sha256:{slot}":
        if time.monotonic() >= end:
            why = (read_json(places.daemon) or {}).get("why")
            raise DeviceError("the router does not let it serve" + (f": {why}" if why else ""))
        time.sleep(0.02)


def _is_of(state: dict[str, Any], standing: Standing) -> bool:
    """Say whether what the supervisor wrote down is of the present standing and not of one before."""
    return (state.get("slot"), state.get("since")) == (standing.slot, standing.since)


@dataclass(frozen=True)
class _Sitting:
    """An examination of one slot."""

    places: Places
    slot: str
    description: Description
    prompts: Sequence[Golden]
    bounds: Bounds
    earlier: Measured
    end: float
    note: Note

    def hold(self) -> _Seen:
        """Ask until it is clear; raise DeviceError where it could not be asked, twice."""
        seen = self._round(Measured())
        for _ in range(TRIES - 1):
            if seen.paper.failed or not _is_worth_another(seen.rows) or time.monotonic() >= self.end:
                break
            try:
                seen = self._round(seen.measured)
            except DeviceError:
                # What was seen was no pass, and remains what it was.
                break
        return seen

    def with_errors(self, seen: _Seen, rate: float | None) -> _Seen:
        """Return what was seen with the share of requests that failed; None where there were none."""
        measured = replace(seen.measured, error_rate=rate)
        return _Seen(seen.paper, measured, self._judge(seen.paper, measured))

    def _round(self, so_far: Measured) -> _Seen:
        try:
            paper = self._ask()
        except DeviceError:
            # Whatever ended the daemon may have had nothing to do with it: it is there again in a moment.
            _await_ready(self.places, self.slot, self.end - time.monotonic(), self.note)
            paper = self._ask()
        measured = rules.best(so_far, paper.measured)
        measured = replace(measured, memory=_memory(self.places, self.slot, self.description))
        return _Seen(paper, measured, self._judge(paper, measured))

    def _ask(self) -> Paper:
        left = max(0.0, self.end - time.monotonic())
        examiner = examine.of(self.places, self.slot, self.description, left)
        paper = examiner.ask(self.prompts, self._told)
        if self.prompts and not paper.asked:
            raise DeviceError("none of its golden prompts could be asked: this daemon scores no texts")
        if paper.asked and not paper.failed:
            examiner.lengthen(self.prompts, paper)
        return paper

    def _told(self, number: int, failed: int) -> None:
        self.note({"step": "golden", "number": number, "of": len(self.prompts), "failed": failed})

    def _judge(self, paper: Paper, measured: Measured) -> list[Row]:
        said = self.description
        generates = said.task != CLASSIFICATION
        promise = Measured(
            tokens_per_second=said.predicted.get("tokens_per_second") if generates else None,
            memory=float(said.memory_bytes),
        )
        wanted = paper.able | {rules.MEMORY}
        if measured.error_rate is not None:
            wanted.add(rules.ERRORS)
        if self.bounds.references == rules.REQUIRED and generates:
            wanted.add(rules.LOGPROB)
        return rules.judge(measured, self.bounds, promise, self.earlier, wanted=wanted)


def _is_worth_another(rows: Sequence[Row]) -> bool:
    """Say whether another look may change the outcome: what is slow or in doubt may, what is wrong not."""
    bad = [row for row in rows if row.outcome in (rules.FAIL, rules.INCONCLUSIVE)]
    return bool(bad) and all(row.what in rules.NOISY or row.outcome == rules.INCONCLUSIVE for row in bad)


def _verdict(prompts: Sequence[Golden], seen: _Seen, earlier: Measured) -> Verdict:
    paper = seen.paper
    evidence: dict[str, Any] = {
        "golden": paper.asked,
        "failed": paper.failed[:3],
        "answers": paper.answers,
        "measured": {
            **rules.told(seen.measured),
            "before": rules.told(earlier),
            "judged": [rules.told_row(row) for row in seen.rows],
        },
    }
    if paper.failed:
        message = f"{len(paper.failed)} of {paper.asked - len(paper.distances)} golden prompts failed"
        return Verdict("fail", "GATE_QUALITY", message, evidence)
    outcome = rules.outcome(seen.rows)
    if outcome == rules.PASS:
        return Verdict("pass", "READY", _passed(prompts, paper), evidence)
    told = [row for row in seen.rows if row.outcome == outcome]
    code = rules.CODES[told[0].what] if outcome == rules.FAIL else "GATE_INCONCLUSIVE"
    return Verdict(outcome, code, "; ".join(map(rules.words, told)), evidence)


def _passed(prompts: Sequence[Golden], paper: Paper) -> str:
    if not prompts:
        return "it runs; the release has no golden prompts"
    scored, questions = len(paper.distances), len(goldens.questions(prompts))
    passed = [f"{paper.asked - scored} of {questions} golden prompts"] if questions else []
    passed += [_references(scored)] if scored else []
    unscored = f"; {_references(paper.unscored)} not asked: this daemon scores no texts"
    return f"{' and '.join(passed)} passed" + (unscored if paper.unscored else "")


def _references(count: int) -> str:
    return f"{count} reference" + ("" if count == 1 else "s")


def _memory(places: Places, slot: str | None, description: Description) -> float | None:
    taken = child.memory(places, slot, description.model) if slot else None
    return None if taken is None else float(taken["peak"])

"""Carry out what the machine asks: check, roll wave by wave, judge, soak, and bring back what is sick.

One thread drives: it alone touches the machine, the assignments and the history; others each work on one
device and tell what happened (`work`). What people ask meanwhile, by a wish in the history or by the flag
`stop`, lets devices that have begun come to their end, and starts nobody. Laws: only whoever holds the fleet
drives, and one from whom it was taken does nothing more; what a driver was doing when it was killed, the next
one goes on with.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event as Flag
from typing import Any

from slmops.errors import SlmopsError
from slmops.fleet.ask_all import AT_ONCE, ask_all
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy, at_most
from slmops.rollout import assignment, machine, verdict
from slmops.rollout.assignment import State
from slmops.rollout.check import Finding
from slmops.rollout.history import LEASE, Entry, History
from slmops.rollout.machine import Event, Rollout
from slmops.rollout.outcome import Errand, Outcome, Watcher
from slmops.rollout.pace import Pace
from slmops.rollout.reach import Reach
from slmops.rollout.reconcile import reconcile
from slmops.rollout.roster import Roster
from slmops.rollout.told import Tell, Told
from slmops.rollout.verdict import Verdict
from slmops.rollout.waves import Wave, cut
from slmops.rollout.work import TICK, Work

WAVE, ALL, NONE = "wave", "all", "none"
"""Who goes back."""


def look_at_all(
    devices: Sequence[Device], reach: Reach, strategy: Strategy, each: Callable[[Finding], None]
) -> list[Finding]:
    """Look at every device, many at a time; return what was found, in the same order."""
    return ask_all(devices, reach.look, max(strategy.max_parallel, AT_ONCE), each)


class Drive:
    """One driver of a rollout, from where it takes it up to its end or its next stop."""

    def __init__(
        self,
        errand: Errand,
        strategy: Strategy,
        reach: Reach,
        *,
        history: History,
        watcher: Watcher,
        stop: Flag,
    ) -> None:
        self.errand, self.strategy, self.reach = errand, strategy, reach
        self.options = {**errand.options, "strategy": strategy.model_dump(mode="json", by_alias=True)}
        self.history, self.watcher, self.stop = history, watcher, stop
        self.findings: dict[str, Finding] = {}
        self.roster = Roster(errand.fleet, history, watcher)
        self.waves: list[Wave] = []
        self.rollout = Rollout(waves=0, stages_only=errand.stages_only)
        self.asked, self.why = "", ""
        self._starts: list[float] = []
        self._began = time.time()
        self._wave_began = time.monotonic()
        self._renewed = 0.0
        self._crossed = False
        self._tally: Counter[State] = Counter()

    def run(self, findings: Sequence[Finding]) -> Outcome:
        """Roll the release out over devices that have been looked at; return how it ended."""
        self.rollout = machine.step(self.rollout, Event.STARTED)
        self.findings = {finding.device.name: finding for finding in findings}
        refusals = self._judge_findings(findings)
        if self.rollout.state is machine.State.CHECKING:
            self._begin(findings)
            self._drive(lambda: self._clear(findings))
        return self._outcome(refusals)

    def go_on(self, entry: Entry, findings: Sequence[Finding], back: str = "") -> Outcome:
        """Go on with a rollout that stopped or whose driver was killed, or promote one that is held.

        `findings` are of its devices in fleet order; `back` abandons it instead: none, wave or all go back.
        """
        self.history.hold(self.errand.fleet, entry.id, self.errand.epoch, self.errand.operator)
        self._drive(lambda: self._take_up(entry, findings, back))
        return self._outcome([])

    def _outcome(self, refusals: list[SlmopsError]) -> Outcome:
        roster = self.roster
        return Outcome(
            self.rollout, roster.states, roster.messages, roster.number, refusals, roster.evidence, self.why
        )

    def _drive(self, begin: Callable[[], None]) -> None:
        """Begin, and go on until an end or a stop, holding the fleet all the while."""
        try:
            begin()
            while self.rollout.state in (machine.State.ROLLING, machine.State.RETURNING):
                self._go()
        except KeyboardInterrupt:
            self._record(machine.State.INTERRUPTED)
            raise
        finally:
            self.history.let_go(self.errand.fleet, self.errand.epoch)

    def _judge_findings(self, findings: Sequence[Finding]) -> list[SlmopsError]:
        """Turn the rollout down when a device cannot take it, or when too many are out of reach."""
        refusals = [finding.refusal for finding in findings if finding.refusal is not None]
        lost = [finding.unreachable for finding in findings if finding.unreachable is not None]
        if refusals:
            self.rollout = machine.step(self.rollout, Event.TURNED_DOWN)
        elif len(lost) > at_most(self.strategy.max_unreachable, len(findings)):
            self.rollout = machine.step(self.rollout, Event.OUT_OF_REACH)
            refusals = list(lost)
        return refusals

    def _begin(self, findings: Sequence[Finding]) -> None:
        """Open the rollout in the history, and take the fleet."""
        ready = [finding.device for finding in findings if finding.goes]
        self.waves = cut(ready, self.strategy)
        going = {device.name for device in ready}
        names = [
            [finding.device.name for finding in findings if finding.device.name not in going],
            *([device.name for device in wave.devices] for wave in self.waves),
        ]
        errand = self.errand
        self.options["waves"] = [_terms(wave) for wave in self.waves]
        left = self.history.left(errand.fleet)
        number = self.history.begin(
            errand.fleet, errand.release, errand.digest, names,
            uid=errand.uid, epoch=errand.epoch, operator=errand.operator, options=self.options,
        )  # fmt: skip
        try:
            self.history.hold(errand.fleet, number, errand.epoch, errand.operator)
        except SlmopsError:
            self.history.moved(number, machine.State.REFUSED.value, 0)
            raise
        self.roster.number = number
        for entry in left:
            self._overtake(entry, {finding.device.name for finding in findings})

    def _overtake(self, entry: Entry, devices: set[str]) -> None:
        """End an earlier rollout that was left, when this one is over devices of it."""
        if devices & {line.device for line in self.history.devices(entry.id)}:
            over = machine.step(Rollout(entry.waves, entry.wave, machine.State(entry.state)), Event.OVERTAKEN)
            self.history.moved(entry.id, over.state.value, over.wave)

    def _clear(self, findings: Sequence[Finding]) -> None:
        self.roster.enter(finding.device.name for finding in findings)
        for finding in findings:
            name = finding.device.name
            if finding.unreachable is not None:
                self.hear(Told(name, assignment.Event.LEFT_OUT, str(finding.unreachable)))
            elif finding.current:
                self.hear(Told(name, assignment.Event.FOUND_CURRENT))
            elif finding.quarantined:
                self.hear(Told(name, assignment.Event.SHUN, finding.quarantined))
        self.rollout = replace(self.rollout, waves=len(self.waves), left_out=self.roster.left_anyone_out())
        self._move(Event.CLEARED)

    def _take_up(self, entry: Entry, findings: Sequence[Finding], back: str) -> None:
        """Stand where the rollout stood by its history, corrected by what devices say now; and move on."""
        self.findings = {finding.device.name: finding for finding in findings}
        self.roster.number = entry.id
        lines = self.history.devices(entry.id)
        self.roster.take_up(lines)
        devices = {name: finding.device for name, finding in self.findings.items()}
        self.options |= entry.options
        kept: list[dict[str, Any]] = self.options["waves"]
        self.waves = [
            Wave(tuple(devices[line.device] for line in lines if line.wave == at), **terms)
            for at, terms in enumerate(kept, 1)
        ]
        self.rollout = Rollout(
            entry.waves,
            entry.wave,
            machine.State(entry.state),
            self.roster.left_anyone_out(),
            self.errand.stages_only,
        )
        self._began = entry.started
        looked = self.rollout.state is machine.State.PAUSED and not back
        for line in lines:
            if line.wave > entry.wave and line.device in self.findings:
                since = line.entered.get(line.state, line.changed)
                finding = self.findings[line.device]
                for event in reconcile(self.stands(line.device), since, finding, looked=looked):
                    self.hear(Told(line.device, event))
        if back:
            self._abandon(back)
        else:
            held = self.rollout.state is machine.State.HOLDING
            self._move(Event.PROMOTED if held else Event.RESUMED)

    def _abandon(self, back: str) -> None:
        self._cancel_waiting()
        if back == NONE:
            self._move(Event.ABANDONED)
        else:
            self._go_home(back)

    def _go(self) -> None:
        if self.rollout.state is machine.State.RETURNING:
            self._bring_back()
            return
        wave = self.waves[self.rollout.wave]
        self._roll(wave)
        self._decide(wave, self.roster.of(wave))
        if self.rollout.state is machine.State.SOAKING:
            self._soak(wave)

    def _roll(self, wave: Wave) -> None:
        """Bring the release to whoever of a wave is not at an end."""
        self._wave_began, self._crossed = time.monotonic(), False
        self._tally = Counter(self.roster.of(wave))
        todo = [device for device in wave.devices if self.roster.states[device.name] not in assignment.ENDS]
        self._worker().all(todo, self._bring)
        self._tally.clear()

    def _worker(self) -> Work:
        everyone = {name: finding.device for name, finding in self.findings.items()}
        return Work(self.strategy, Pace(everyone, self.strategy), self._starts, self)

    def _bring(self, device: Device, tell: Tell) -> None:
        self.reach.bring(self.findings[device.name], tell)

    def _decide(self, wave: Wave, states: Sequence[State]) -> None:
        """Move on by what a wave has come to, and by what was asked meanwhile."""
        found = verdict.judge(states, self.strategy, wave)
        if found is Verdict.FAIL:
            self._fail(states)
        elif self.asked:
            self._obey()
        elif found is Verdict.INCONCLUSIVE:
            self.why = self.why or "too few devices of the wave came to an end that tells anything"
            self._move(Event.UNKNOWN)
        elif self.rollout.state is machine.State.ROLLING:
            self.rollout = replace(self.rollout, left_out=self.roster.left_anyone_out())
            self._move(Event.PASSED)
        else:
            self._move(
                Event.HELD if wave.advance == "manual" and not machine.is_last(self.rollout) else Event.SOAKED
            )

    def _fail(self, states: Sequence[State]) -> None:
        """Do what the strategy says of a wave that failed; where nothing was switched, nothing goes back."""
        policy = self.strategy.on_error
        if policy == "pause":
            self.why = "the wave failed, and on_error is pause"
            self._move(Event.UNKNOWN)
        elif policy == "abort":
            self._cancel_waiting()
            self._move(Event.ABANDONED)
        elif policy == "rollback-all":
            self._go_home(ALL)
        elif self.rollout.state is machine.State.ROLLING and not assignment.SWITCHED & set(states):
            self._move(Event.TURNED_DOWN)
        else:
            self._go_home(WAVE)

    def _obey(self) -> None:
        """Do what somebody asked for."""
        asked, self.asked = self.asked, ""
        if asked == "stop":
            self._move(Event.STOPPED)
        elif asked == "abort":
            self._cancel_waiting()
            self._move(Event.ABANDONED)
        elif asked.startswith("abort "):
            self._cancel_waiting()
            self._go_home(asked.removeprefix("abort "))
        else:
            self.why = self.why or "somebody asked for a pause"
            self._move(Event.UNKNOWN)

    def _soak(self, wave: Wave) -> None:
        """Wait, then see whether the wave is still healthy; without a soak the gate just passed is enough."""
        if wave.soak == 0 or self.errand.stages_only:
            self._decide(wave, self.roster.of(wave))
            return
        end = time.monotonic() + wave.soak
        while time.monotonic() < end and not self.hold_back():
            self.stop.wait(min(TICK, max(0.0, end - time.monotonic())))
            self.breathe()
        if self.asked:
            self._obey()
            return
        self._decide(wave, self._looked_at_again(wave))

    def _looked_at_again(self, wave: Wave) -> list[State]:
        """Return where the devices of a wave stand after its soak; one that is ill counts as failed."""
        committed = [device for device in wave.devices if self.roster.states[device.name] is State.COMMITTED]
        counts = dict.fromkeys((device.name for device in wave.devices), State.WAITING)
        counts |= {name: self.roster.states[name] for name in counts}
        for finding in look_at_all(committed, self.reach, self.strategy, lambda finding: None):
            name = finding.device.name
            if finding.unreachable is not None:
                counts[name] = State.LOST
            elif finding.went_back_at is not None and not finding.current:
                self.hear(Told(name, assignment.Event.FALL_BACK, "it went back by itself during the soak"))
                counts[name] = self.roster.states[name]
            elif not finding.current:
                counts[name] = State.FAILED
                self.roster.messages[name] = "it was not healthy after the soak"
        return list(counts.values())

    def _go_home(self, whom: str) -> None:
        """Begin the way back of a wave, or of all; whoever drives next knows whose."""
        if self.roster.number is not None:
            self.options["back"] = whom
            self.history.set_options(self.roster.number, self.options)
        self._move(Event.SICKENED)

    def _bring_back(self) -> None:
        whom = self.waves if self.options.get("back") == ALL else [self.waves[self.rollout.wave]]
        devices = [device for wave in whom for device in wave.devices]
        committed = [device for device in devices if self.roster.states[device.name] is State.COMMITTED]
        self._worker().all(committed, self.reach.take_back, paced=False)
        stuck = any(self.stands(device.name) in (State.STUCK, State.COMMITTED) for device in devices)
        self._move(Event.JAMMED if stuck else Event.WENT_HOME)

    def _cancel_waiting(self) -> None:
        for name, state in list(self.roster.states.items()):
            if (state, assignment.Event.CANCEL) in assignment.TRANSITIONS:
                self.hear(Told(name, assignment.Event.CANCEL, "the rollout was aborted"))

    def stands(self, name: str) -> State:
        """Return where a device stands."""
        return self.roster.states[name]

    def hear(self, told: Told) -> None:
        """Take in what happened to a device, and see whether that crosses a bound."""
        before = self.stands(told.device)
        self.roster.hear(told)
        after = self.stands(told.device)
        if after is not before and self._tally[before]:
            self._tally[before] -= 1
            self._tally[after] += 1
            self._crossed = self._crossed or self._too_sick(after)

    def _too_sick(self, state: State) -> bool:
        return state in assignment.BAD | assignment.UNKNOWN and verdict.crossed(
            list(self._tally.elements()), self.strategy, self.waves[self.rollout.wave]
        )

    def hold_back(self) -> bool:
        """Say whether nobody new may begin; the way home is never cut short."""
        if self.rollout.state is machine.State.RETURNING:
            return False
        if self.stop.is_set():
            self.asked = self.asked or "stop"
        return bool(self.asked) or self._crossed

    def breathe(self) -> None:
        """Hold the fleet on, hear wishes, and see whether time is up."""
        now = time.monotonic()
        if self.roster.number is not None and now - self._renewed > LEASE / 6:
            self._renewed = now
            self.history.renew(self.errand.fleet, self.errand.epoch)
        if self.roster.number is not None and self.rollout.state is not machine.State.RETURNING:
            for wish in self.history.wishes(self.roster.number):
                self.asked = wish
        if now - self._wave_began > self.strategy.wave_timeout:
            self.asked, self.why = self.asked or "pause", "the wave was not decided within wave_timeout"
        elif time.time() - self._began > self.strategy.rollout_timeout:
            self.asked, self.why = (
                self.asked or "pause",
                "the rollout was not at its end within rollout_timeout",
            )

    def _move(self, event: Event) -> None:
        self.rollout = machine.step(self.rollout, event)
        self._record(self.rollout.state)
        on = self.waves[min(self.rollout.wave, len(self.waves) - 1)] if self.waves else None
        self.watcher.rollout(self.rollout, on)

    def _record(self, state: machine.State) -> None:
        if self.roster.number is not None:
            self.history.moved(self.roster.number, state.value, self.rollout.wave)


def _terms(wave: Wave) -> dict[str, Any]:
    """Return what is to be known of a wave besides its devices."""
    return {name: value for name, value in vars(wave).items() if name != "devices"}

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
from itertools import chain
from threading import Event as Flag

from slmops.errors import LockedError, SlmopsError
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy, at_most
from slmops.rollout import assignment, machine, verdict
from slmops.rollout.assignment import State
from slmops.rollout.check import Finding
from slmops.rollout.history import LEASE, Entry, History, Line
from slmops.rollout.machine import Event, Rollout
from slmops.rollout.outcome import Errand, Outcome, Watcher
from slmops.rollout.pace import Pace
from slmops.rollout.reach import Reach, look_at_all
from slmops.rollout.reconcile import left_out, reconcile, went_back
from slmops.rollout.roster import Roster
from slmops.rollout.told import Tell, Told
from slmops.rollout.verdict import Verdict
from slmops.rollout.waves import Wave, again, cut
from slmops.rollout.work import TICK, Work

WAVE, ALL, NONE = "wave", "all", "none"
"""Who goes back."""


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
        self.roster = Roster(errand.fleet, errand.epoch, history, watcher)
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
        self._drive(lambda: self._take_up(self._still(entry), findings, back))
        return self._outcome([])

    def _still(self, entry: Entry) -> Entry:
        """Return a rollout that is where it was when its devices were looked at; else raise LockedError."""
        now = self.history.find(entry.id)
        if now is None or (now.state, now.wave, now.changed) != (entry.state, entry.wave, entry.changed):
            see = f"See where it is: slmops rollout show {entry.id}."
            raise LockedError(f"somebody else went on with rollout {entry.id} meanwhile", remedy=see)
        return now

    def _outcome(self, refusals: list[SlmopsError]) -> Outcome:
        at, told = self.rollout, self.roster
        return Outcome(at, told.states, told.messages, told.number, refusals, told.evidence, self.why)

    def _drive(self, begin: Callable[[], None]) -> None:
        """Begin, and go on until an end or a stop, holding the fleet all the while."""
        try:
            begin()
            while self.rollout.state in (machine.State.ROLLING, machine.State.RETURNING):
                self._go()
        except KeyboardInterrupt:
            # One that has ended stays ended, and one on its way back is taken up on its way back.
            if (self.rollout.state, Event.STOPPED) in machine.TRANSITIONS:
                self._move(Event.STOPPED)
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
        names = [[finding.device.name for finding in findings if finding.device.name not in going]]
        names += [[device.name for device in wave.devices] for wave in self.waves]
        errand = self.errand
        self.options["waves"] = [wave.terms() for wave in self.waves]
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
        for entry in self.history.left(errand.fleet):
            if entry.id != number:
                self._overtake(entry, {finding.device.name for finding in findings})

    def _overtake(self, entry: Entry, devices: set[str]) -> None:
        """End an earlier rollout that was left, when this one is over devices of it."""
        if devices & {line.device for line in self.history.devices(entry.id)}:
            over = machine.step(Rollout(entry.waves, entry.wave, machine.State(entry.state)), Event.OVERTAKEN)
            self.history.moved(entry.id, over.state.value, over.wave)

    def _clear(self, findings: Sequence[Finding]) -> None:
        self.roster.enter(finding.device.name for finding in findings)
        for told in chain.from_iterable(map(left_out, findings)):
            self.hear(told)
        self.rollout = replace(self.rollout, waves=len(self.waves), left_out=self.roster.left_anyone_out())
        self._move(Event.CLEARED)

    def _take_up(self, entry: Entry, findings: Sequence[Finding], back: str) -> None:
        """Stand where the rollout stood by its history, corrected by what devices say now; and move on."""
        self.findings = {finding.device.name: finding for finding in findings}
        self.roster.number = entry.id
        lines = self.history.devices(entry.id)
        self.roster.take_up(lines)
        self.options |= entry.options
        there = [line for line in lines if line.device in self.findings]
        placed = [(line.wave, self.findings[line.device].device) for line in there]
        self.waves = again(self.options["waves"], placed)
        self.rollout = Rollout(
            entry.waves, entry.wave, machine.State(entry.state), stages_only=self.errand.stages_only
        )
        self._began = entry.started
        ends = bool(back) or self.rollout.state is machine.State.RETURNING
        for line in there:
            self._see(line, ends=ends)
        self.rollout = replace(self.rollout, left_out=self.roster.left_anyone_out())
        if back:
            self._abandon(back)
        else:
            self._move(Event.PROMOTED if self._may_be_promoted() else Event.RESUMED)

    def _see(self, line: Line, *, ends: bool) -> None:
        """Correct where history left a device by what it says now; `ends` of a rollout that tries no more."""
        finding, state = self.findings[line.device], self.stands(line.device)
        if state is State.COMMITTED and self.rollout.state is machine.State.RETURNING:
            return  # It is asked to go in any case.
        if line.wave > self.rollout.wave or state is State.COMMITTED:
            looked = self.rollout.state is machine.State.PAUSED
            since = line.entered.get(line.state, line.changed)
            for event in reconcile(state, since, finding, rollout=self.errand.uid, looked=looked, ends=ends):
                self.hear(Told(line.device, event))
        elif line.wave == 0 and state is State.WAITING:
            # The driver was killed before it could say why.
            for told in left_out(finding):
                self.hear(told)

    def _may_be_promoted(self) -> bool:
        """Say whether the rollout is held at a wave that is well still; else that wave is judged anew."""
        if self.rollout.state is not machine.State.HOLDING:
            return False
        wave = self.waves[self.rollout.wave]
        states = self._as_found(wave, [self.findings[device.name] for device in wave.devices])
        return verdict.judge(states, self.strategy, wave) is Verdict.PASS

    def _abandon(self, back: str) -> None:
        """End it; one that is on its way back already goes on with that, for more devices at the most."""
        self._cancel_waiting()
        if self.rollout.state is machine.State.RETURNING and back != ALL:
            self._move(Event.RESUMED)
        elif back == NONE:
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
        # Of those who are at their ends the verdict tells more.
        self._crossed = False

    def _worker(self) -> Work:
        everyone = {name: finding.device for name, finding in self.findings.items()}
        return Work(self.strategy, Pace(everyone, self.strategy), self._starts, self)

    def _bring(self, device: Device, tell: Tell) -> None:
        self.reach.bring(self.findings[device.name], tell)

    def _decide(self, wave: Wave, states: Sequence[State]) -> None:
        """Move on by what a wave has come to, and by what was asked meanwhile."""
        found = verdict.judge(states, self.strategy, wave)
        if found is Verdict.FAIL and not self.asked.startswith("abort"):
            self._fail(states)
        elif self.asked:
            self._obey()
        elif found is Verdict.INCONCLUSIVE:
            self.why = self.why or "too few devices of the wave came to an end that tells anything"
            self._move(Event.UNKNOWN)
        else:
            self.rollout = replace(self.rollout, left_out=self.roster.left_anyone_out())
            self._move(self._onward(wave))

    def _onward(self, wave: Wave) -> Event:
        """Return what a wave that is well leads to."""
        if self.rollout.state is machine.State.ROLLING:
            return Event.PASSED
        held = wave.advance == "manual" and not self.errand.stages_only
        return Event.HELD if held and not machine.is_last(self.rollout) else Event.SOAKED

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
        committed = [device for device in wave.devices if self.stands(device.name) is State.COMMITTED]
        return self._as_found(
            wave, look_at_all(committed, self.reach, self.strategy, lambda _: self.breathe())
        )

    def _as_found(self, wave: Wave, findings: Sequence[Finding]) -> list[State]:
        """Return where the devices of a wave stand once those who committed were looked at again."""
        counts = {device.name: self.stands(device.name) for device in wave.devices}
        for finding in findings:
            name = finding.device.name
            if counts[name] is not State.COMMITTED:
                continue
            if finding.unreachable is not None:
                counts[name] = State.LOST
            elif went_back(finding, 0.0, self.errand.uid):
                self.hear(Told(name, assignment.Event.FALL_BACK, "it went back by itself after it committed"))
                counts[name] = self.stands(name)
            elif not finding.current:
                counts[name] = State.FAILED
                self.roster.messages[name] = "it was not healthy after the soak"
        return list(counts.values())

    def _go_home(self, whom: str) -> None:
        """Begin the way back of a wave, or of all; whoever drives next knows whose."""
        if self.roster.number is not None:
            self.options["back"] = whom
            self.history.set_options(self.roster.number, self.options)
        self._move(Event.RESUMED if self.rollout.state is machine.State.RETURNING else Event.SICKENED)

    def _bring_back(self) -> None:
        at = self.rollout.wave
        whom = self.waves if self.options.get("back") == ALL else self.waves[at : at + 1]
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
            self.asked, self.why = self.asked or "pause", "it was not at its end within rollout_timeout"

    def _move(self, event: Event) -> None:
        self.rollout = machine.step(self.rollout, event)
        self.roster.moved(self.rollout)
        on = self.waves[min(self.rollout.wave, len(self.waves) - 1)] if self.waves else None
        self.watcher.rollout(self.rollout, on)

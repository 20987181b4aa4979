"""Carry out what the machine asks: check, roll wave by wave, judge, and bring a sick wave back.

Setting `terms.stop` lets devices that have begun their trial end it, and starts nobody.
One thread drives: it alone touches the machine, the assignments and the history. Others, at most
`max_parallel`, each work on one device and tell what happened through a queue.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from slmops.errors import SlmopsError
from slmops.fleet.ask_all import ask_all
from slmops.fleet.inventory import Device
from slmops.fleet.strategy import at_most
from slmops.rollout import apply, assignment, check, machine, verdict
from slmops.rollout.apply import Terms
from slmops.rollout.assignment import State
from slmops.rollout.check import Finding
from slmops.rollout.history import History
from slmops.rollout.machine import Event, Rollout
from slmops.rollout.order import Order
from slmops.rollout.told import Tell, Told, remedies
from slmops.rollout.verdict import Verdict
from slmops.rollout.waves import cut


class Watcher(Protocol):
    """Who is shown the rollout as it goes."""

    def rollout(self, rollout: Rollout, devices: Sequence[Device]) -> None:
        """See that the rollout moved; `devices` are those of its wave."""

    def device(self, told: Told, state: State) -> None:
        """See what happened to a device; `state` is where it stands now."""


@dataclass
class Outcome:
    """How a rollout ended."""

    rollout: Rollout
    states: dict[str, State]
    messages: dict[str, str]
    number: int | None = None
    refusals: list[SlmopsError] = field(default_factory=list)
    evidence: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was told of each device."""

    @property
    def sent(self) -> dict[str, int]:
        """Return the bytes of files that went to each device."""
        return {name: said["sent"] for name, said in self.evidence.items() if "sent" in said}

    @property
    def whole_because(self) -> dict[str, list[str]]:
        """Return for each device why files went to it whole that were to go as a delta."""
        return {
            name: said["whole_because"] for name, said in self.evidence.items() if said.get("whole_because")
        }

    @property
    def remedies(self) -> list[str]:
        """Return what can be done about devices that failed or were lost, each once."""
        return remedies(self.evidence.values())

    @property
    def exit_code(self) -> int:
        """Return the exit code for this end; a refusal's own where it has one (6, 7)."""
        if self.rollout.state is machine.State.REFUSED and self.refusals:
            return max(error.exit_code for error in self.refusals)
        return machine.EXIT_CODES[self.rollout.state]


def look_at_all(
    devices: Sequence[Device],
    order: Order,
    terms: Terms,
    each: Callable[[Finding], None],
) -> list[Finding]:
    """Look at every device at once, `max_parallel` at a time; return what was found, in fleet order."""
    return ask_all(
        devices, lambda device: check.look(device, order, terms.trusted), terms.strategy.max_parallel, each
    )


class Drive:
    """One rollout, from the look at its devices to its end."""

    def __init__(self, fleet: str, order: Order, terms: Terms, *, history: History, watcher: Watcher) -> None:
        self.fleet, self.order, self.strategy = fleet, order, terms.strategy
        self.terms, self.history, self.watcher = terms, history, watcher
        self.findings: dict[str, Finding] = {}
        self.states: dict[str, State] = {}
        self.messages: dict[str, str] = {}
        self.evidence: dict[str, dict[str, Any]] = {}
        self.rollout = Rollout(waves=0)
        self.number: int | None = None

    def run(self, findings: Sequence[Finding]) -> Outcome:
        """Roll the release out over devices that have been looked at; return how it ended."""
        self.rollout = machine.step(self.rollout, Event.STARTED)
        self.findings = {finding.device.name: finding for finding in findings}
        refusals = self._judge_findings(findings)
        if self.rollout.state is machine.State.CHECKING:
            try:
                self._roll(findings)
            except KeyboardInterrupt:
                if self.number is not None:
                    self.history.moved(self.number, machine.State.INTERRUPTED.value, self.rollout.wave)
                raise
        return Outcome(self.rollout, self.states, self.messages, self.number, refusals, self.evidence)

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

    def _roll(self, findings: Sequence[Finding]) -> None:
        ready = [
            finding.device for finding in findings if finding.unreachable is None and not finding.current
        ]
        waves = cut(ready, self.strategy)
        everyone = [
            [finding.device.name for finding in findings if finding.device not in ready],
            *_names(waves),
        ]
        release = self.order.signed.release.reference
        self.number = self.history.begin(self.fleet, release, self.order.signed.blob.digest, everyone)
        for finding in findings:
            self.states[finding.device.name] = State.WAITING
        for finding in findings:
            if finding.unreachable is not None:
                self._hear(Told(finding.device.name, assignment.Event.LEFT_OUT, str(finding.unreachable)))
            elif finding.current:
                self._hear(Told(finding.device.name, assignment.Event.FOUND_CURRENT))
        left_out = any(finding.unreachable is not None for finding in findings)
        self.rollout = Rollout(waves=len(waves), state=machine.State.CHECKING, left_out=left_out)
        self._move(Event.CLEARED, waves)
        while self.rollout.state is machine.State.ROLLING:
            self._roll_wave(waves)

    def _roll_wave(self, waves: list[list[Device]]) -> None:
        wave = waves[self.rollout.wave]
        self._work(wave, self._bring)
        found = self._judge([self.states[device.name] for device in wave])
        # A stop ends the rollout here, but a sick wave comes home all the same.
        stopped = self.terms.stop.is_set() and found is not Event.SICKENED
        self._move(Event.STOPPED if stopped else found, waves)
        if self.rollout.state is machine.State.SOAKING:
            self._soak(wave, waves)
        if self.rollout.state is machine.State.RETURNING:
            self._bring_back(wave, waves)

    def _judge(self, states: list[State]) -> Event:
        """Say what a wave has come to; one that failed before any switch has nothing to bring back."""
        found = verdict.judge(states, self.strategy)
        if found is Verdict.FAIL and not any(state in assignment.SWITCHED for state in states):
            return Event.TURNED_DOWN
        return {Verdict.PASS: Event.PASSED, Verdict.FAIL: Event.SICKENED}.get(found, Event.UNKNOWN)

    def _soak(self, wave: list[Device], waves: list[list[Device]]) -> None:
        """Wait, then see whether the wave is still healthy; without a soak the gate just passed is enough."""
        if self.strategy.soak == 0:
            self._move(Event.SOAKED, waves)
            return
        if self.terms.stop.wait(self.strategy.soak):
            self._move(Event.STOPPED, waves)
            return
        committed = [device for device in wave if self.states[device.name] is State.COMMITTED]
        findings = look_at_all(committed, self.order, self.terms, lambda finding: None)
        if any(finding.unreachable is not None for finding in findings):
            self._move(Event.UNKNOWN, waves)
        elif all(finding.current for finding in findings):
            self._move(Event.SOAKED, waves)
        else:
            self._move(Event.SICKENED, waves)

    def _bring_back(self, wave: list[Device], waves: list[list[Device]]) -> None:
        committed = [device for device in wave if self.states[device.name] is State.COMMITTED]
        self._work(committed, self._take_back)
        stuck = any(self.states[device.name] in (State.STUCK, State.COMMITTED) for device in wave)
        self._move(Event.JAMMED if stuck else Event.WENT_HOME, waves)

    def _bring(self, device: Device, tell: Tell) -> None:
        apply.bring(self.findings[device.name], self.order, self.terms, tell)

    def _take_back(self, device: Device, tell: Tell) -> None:
        apply.take_back(device, self.order.parcel(device).slot, self.terms, tell)

    def _work(self, devices: Iterable[Device], job: Callable[[Device, Tell], None]) -> None:
        """Do `job` for each device, `max_parallel` at a time; nobody new starts once a bound is crossed.

        The threads are daemons: whoever leaves by a second Ctrl-C leaves the devices to decide alone.
        """
        told: SimpleQueue[Told | None] = SimpleQueue()
        waiting, running = list(devices), 0
        whole = [device.name for device in waiting]

        def do(device: Device) -> None:
            try:
                job(device, told.put)
            finally:
                told.put(None)

        while waiting or running:
            while waiting and running < self.strategy.max_parallel and not self._must_wait(whole):
                Thread(target=do, args=(waiting.pop(0),), daemon=True).start()
                running += 1
            if not running:
                break
            heard = told.get()
            if heard is None:
                running -= 1
            else:
                self._hear(heard)

    def _must_wait(self, wave: list[str]) -> bool:
        """Say whether nobody new may start; a sick wave's way home is never cut short."""
        if self.rollout.state is not machine.State.ROLLING:
            return False
        states = [self.states[name] for name in wave]
        return self.terms.stop.is_set() or verdict.too_sick(states, self.strategy)

    def _hear(self, told: Told) -> None:
        name = told.device
        # Wherever it is shown, the device's name stands before it.
        told = replace(told, message=told.message.removeprefix(f"{name}: "))
        if told.event is not None:
            self.states[name] = assignment.step(self.states[name], told.event)
            if told.message:
                self.messages[name] = told.message
            evidence = self.evidence.setdefault(name, {})
            evidence |= told.said
            if self.number is not None:
                self.history.told(self.number, name, self.states[name].value, told.message, evidence)
        self.watcher.device(told, self.states[name])

    def _move(self, event: Event, waves: list[list[Device]]) -> None:
        self.rollout = machine.step(self.rollout, event)
        if self.number is not None:
            self.history.moved(self.number, self.rollout.state.value, self.rollout.wave)
        self.watcher.rollout(self.rollout, waves[min(self.rollout.wave, len(waves) - 1)] if waves else [])


def _names(waves: list[list[Device]]) -> list[list[str]]:
    return [[device.name for device in wave] for wave in waves]

"""A fleet through anything: random operations over devices only thought of, and what always holds."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from _fake_operator import FakeOperator
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from slmops.device import lease
from slmops.errors import FencedError, LockedError
from slmops.rollout import machine
from slmops.rollout.assignment import State
from slmops.rollout.history import History
from slmops.rollout.machine import State as Stage

RELEASES = ("one", "two", "three")
OUTCOMES = ("pass", "pass", "pass", "fail", "inconclusive")
CUTS = ("before stage", "after stage", "before activate", "after activate", "before confirm", "after confirm",
        "before roll-back", "after roll-back")  # fmt: skip


FATES = st.fixed_dictionaries({
    "dies": st.integers(0, 60), "asked": st.integers(1, 60),
    "wish": st.sampled_from(["", "", "", "pause", "abort", "abort wave", "abort all"]),
})  # fmt: skip


class KilledError(BaseException):
    """The driver is killed here."""


class Fate:
    """A watcher with which its driver dies, and hears a wish, after so many things were shown."""

    def __init__(self, history, dies=0, asked=0, wish=""):
        self.history, self.dies, self.asked, self.wish = history, dies, asked, wish

    def rollout(self, _rollout, _wave):
        self.device(None, None)

    def device(self, _told, _state):
        self.dies, self.asked = self.dies - 1, self.asked - 1
        if self.wish and self.asked == 0:
            self.history.wish(self.history.find(None).id, self.wish, "me@here")
        if self.dies == 0:
            raise KilledError


class Fleet(RuleBasedStateMachine):
    """Two operators, some devices, and everything that may befall them."""

    @initialize(size=st.integers(5, 12))
    def begin(self, size):
        self.room = TemporaryDirectory()
        here, there = (History(Path(self.room.name) / f"{name}.sqlite") for name in "ab")
        one = FakeOperator(here, size)
        self.devices = one.devices
        self.operators = [one, FakeOperator(there, devices=self.devices, epochs=one.epochs)]
        self.highest = dict.fromkeys(self.devices, 0)

    def teardown(self):
        if hasattr(self, "operators"):
            for operator in self.operators:
                operator.history.close()
            self.room.cleanup()

    def drive(self, operator, then, *, fresh):
        """Let an operator do something, and hold what is reported against what is."""
        before = {name: device.standing.slot for name, device in self.devices.items()}
        others = set(threading.enumerate())
        try:
            outcome = then()
        except (KilledError, LockedError, FencedError):
            self.bury(others)
            return
        if outcome.number is not None:
            self.check(outcome, before, operator.history, fresh=fresh)

    def bury(self, others):
        """Wait until no thread of a driver that is no more works on a device: a kill takes them with it."""
        for thread in set(threading.enumerate()) - others:
            thread.join(10)
            assert not thread.is_alive()

    def check(self, outcome, before, history, *, fresh):
        entry, lines = history.find(outcome.number), history.devices(outcome.number)
        assert outcome.rollout.state in machine.ENDS | machine.STOPS
        assert (entry.state, entry.wave) == (outcome.rollout.state.value, outcome.rollout.wave)
        assert {line.device: line.state for line in lines} == {
            name: state.value for name, state in outcome.states.items()
        }
        assert not any("fault of slmops" in message for message in outcome.messages.values())
        slot = entry.options["slot"]
        for name, state in outcome.states.items():
            self.check_device(state, slot, self.devices[name], before[name], fresh=fresh)
        if outcome.rollout.state is Stage.SUCCEEDED:
            assert {state.value for state in outcome.states.values()} <= {"committed", "already"}
        if outcome.rollout.state is Stage.PARTIAL:
            assert not {state.value for state in outcome.states.values()} <= {"committed", "already"}
        if outcome.rollout.state is Stage.RETURNED:
            number = outcome.rollout.wave + 1
            wave = [line.device for line in history.devices(outcome.number) if line.wave == number]
            meant = outcome.states if entry.options["back"] == "all" else wave
            assert State.COMMITTED not in {outcome.states[name] for name in meant}

    def check_device(self, state, slot, device, before, *, fresh):
        here = device.standing
        if fresh and state in (State.COMMITTED, State.ALREADY):
            # Nothing happens to a device behind its driver's back here.
            assert (here.slot, here.trial) == (slot, None)
        if state is State.COMMITTED and device.online:
            # Whoever took the rollout up has seen who gave the release up since.
            failure = here.failure or {}
            assert here.slot == slot or (failure.get("slot"), failure.get("code")) != (slot, "RUN_CRASHLOOP")
        if state in (State.WENT_BACK, State.UNPROVED, State.RETURNED):
            assert here.slot != slot or before == slot
        if state in (State.CANCELED, State.SKIPPED, State.WAITING, State.READY):
            # Whoever was not tried, or is said not to have been, serves what it served.
            assert here.slot == before

    @rule(
        who=st.integers(0, 1), slot=st.sampled_from(RELEASES), outcome=st.sampled_from(OUTCOMES),
        fate=FATES, strategy=st.fixed_dictionaries({
            "on_error": st.sampled_from(["pause", "abort", "rollback-wave", "rollback-all"]),
            "max_failures": st.sampled_from([0, 1, "50%"]),
            "max_unreachable": st.sampled_from([0, 2, "50%"]),
            "max_parallel": st.integers(1, 4),
            "advance": st.sampled_from(["auto", "manual"]), "soak": st.sampled_from([0, 0, 0.001]),
        }),
    )  # fmt: skip
    def deploy(self, who, slot, outcome, fate, strategy):
        operator = self.operators[who]
        operator.watcher = Fate(operator.history, **fate)
        said = {**strategy, "min_executed": 1, "defer_timeout": 0.01}
        self.drive(operator, lambda: operator.roll_out(slot, outcome, **said), fresh=True)

    @rule(who=st.integers(0, 1), outcome=st.sampled_from(OUTCOMES), fate=FATES,
          back=st.sampled_from(["", "", "", "none", "wave", "all"]))  # fmt: skip
    def go_on(self, who, outcome, fate, back):
        operator = self.operators[who]
        left, newest = operator.history.left("fleet"), operator.history.find(None)
        if not left or left[0].id != newest.id:
            return
        operator.watcher = Fate(operator.history, **fate)
        self.drive(operator, lambda: operator.go_on(back, outcome), fresh=False)

    @rule(name=st.integers(0, 11), cut=st.sampled_from(["", *CUTS]))
    def cut(self, name, cut):
        self.device(name).cut_at = cut

    @rule(name=st.integers(0, 11), online=st.booleans())
    def switch(self, name, online):
        self.device(name).online = online

    @rule(name=st.integers(0, 11), fails=st.booleans())
    def spoil(self, name, fails):
        self.device(name).fails = fails

    @rule(name=st.integers(0, 11))
    def reboot(self, name):
        self.device(name).reboot()

    @rule(name=st.integers(0, 11))
    def crash(self, name):
        """Let the daemon of a device that committed crash until its agent gives the release up."""
        device = self.device(name)
        if device.standing.trial is None and device.standing.slot is not None:
            device.write(
                "rolled_back", slot=device.standing.slot, code="RUN_CRASHLOOP", message="", evidence={}
            )

    @rule(name=st.integers(0, 11), held=st.booleans())
    def update_lock(self, name, held):
        self.device(name).update_lock = held

    @rule()
    def heal(self):
        """Let all be well again: then one deploy brings everybody to one release, whatever was before."""
        for device in self.devices.values():
            device.online, device.update_lock, device.cut_at, device.fails = True, False, "", False
            device.decide_alone()
            device.write("forgiven", slot=None)
            device.tenure = lease.broken(device.tenure, 0, "a person", "to go on", device.clock())
        self.operators[0].watcher = Fate(self.operators[0].history)
        highest = max(device.tenure.epoch for device in self.devices.values())
        while next(self.operators[0].epochs) < highest:
            pass

        assert self.operators[0].roll_out("three").rollout.state is Stage.SUCCEEDED
        assert set(self.operators[0].serve().values()) == {"three"}

    def device(self, number):
        return self.devices[f"d{number % len(self.devices)}"]

    @invariant()
    def every_device_serves_what_passed_its_gate_there_or_nothing(self):
        for device in getattr(self, "devices", {}).values():
            here = device.standing
            committed = here.before.slot if here.trial and here.before else here.slot
            proved = {record["slot"] for record in device.records if record["kind"] == "proved"}
            assert here.slot in (None, *RELEASES)
            assert committed is None or committed in proved

    @invariant()
    def nobody_commits_what_is_not_staged_and_epochs_never_fall(self):
        for name, device in getattr(self, "devices", {}).items():
            confirmed = {record["slot"] for record in device.records if record["kind"] == "confirmed"}
            assert confirmed <= device.staged
            assert device.tenure.epoch >= self.highest[name]
            self.highest[name] = device.tenure.epoch


Fleet.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestFleet = Fleet.TestCase

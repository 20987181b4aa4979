"""Drive with jobs that need no network: who starts, who is waited for, and what an interruption leaves."""

from threading import Event as Flag

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy
from slmops.rollout.apply import Terms
from slmops.rollout.assignment import Event, State
from slmops.rollout.drive import Drive, Outcome
from slmops.rollout.history import History
from slmops.rollout.machine import Rollout
from slmops.rollout.machine import State as Stage
from slmops.rollout.told import Told


class Watcher:
    def rollout(self, rollout, devices):
        pass

    def device(self, told, state):
        pass


class Rehearsal(Drive):
    """A drive whose devices do as they are told beforehand, the operator's stop coming with the first."""

    def _bring(self, device, tell):
        self.terms.stop.set()
        for event in self.then[device.name]:
            tell(Told(device.name, event))

    def _take_back(self, device, tell):
        tell(Told(device.name, Event.RETURN))


def driven(tmp_path, states, stage, **strategy):
    """A drive in the middle of a wave of devices that stand as said."""
    drive = Rehearsal(
        "fleet",
        None,
        Terms(Strategy(**strategy), (), Flag()),
        history=History(tmp_path / "history"),
        watcher=Watcher(),
    )
    drive.rollout = Rollout(waves=1, state=stage)
    drive.states = dict(states)
    return drive, [Device(name=name, host=name) for name in states]


def commits(device, tell):
    for event in (Event.SEND, Event.STAGE, Event.TRY, Event.PASS, Event.CONFIRM):
        tell(Told(device.name, event))


def test_everyone_is_worked_on_and_heard_to_the_end(tmp_path):
    drive, devices = driven(tmp_path, dict.fromkeys("abcde", State.WAITING), Stage.ROLLING, max_parallel=2)

    drive._work(devices, commits)

    assert set(drive.states.values()) == {State.COMMITTED}


def test_nobody_new_starts_once_a_bound_is_crossed(tmp_path):
    drive, devices = driven(tmp_path, dict.fromkeys("abc", State.WAITING), Stage.ROLLING, max_parallel=1)

    drive._work(devices, lambda device, tell: tell(Told(device.name, Event.REFUSE, "no")))

    assert drive.states == {"a": State.FAILED, "b": State.WAITING, "c": State.WAITING}


def test_a_stop_lets_those_under_way_end_and_starts_nobody(tmp_path):
    drive, devices = driven(tmp_path, dict.fromkeys("abc", State.WAITING), Stage.ROLLING, max_parallel=1)

    def stopped(device, tell):
        drive.terms.stop.set()
        commits(device, tell)

    drive._work(devices, stopped)

    assert drive.states == {"a": State.COMMITTED, "b": State.WAITING, "c": State.WAITING}


def test_a_stop_does_not_cut_short_the_way_home_of_a_sick_wave(tmp_path):
    drive, devices = driven(tmp_path, dict.fromkeys("abc", State.COMMITTED), Stage.RETURNING, max_parallel=1)
    drive.terms.stop.set()

    drive._work(devices, lambda device, tell: tell(Told(device.name, Event.RETURN)))

    assert set(drive.states.values()) == {State.RETURNED}


def wave_that_is_stopped(tmp_path, then):
    """Drive one wave that ends as `then` says after a stop; return where all of it stands."""
    drive, devices = driven(tmp_path, dict.fromkeys(then, State.WAITING), Stage.ROLLING, max_parallel=2)
    drive.then = then
    drive._roll_wave([devices])
    return drive.rollout.state, drive.states


PASSED = (Event.SEND, Event.STAGE, Event.TRY, Event.PASS, Event.CONFIRM)


def test_a_sick_wave_comes_home_though_the_operator_stopped(tmp_path):
    sick = (Event.SEND, Event.STAGE, Event.TRY, Event.FALL_BACK)

    state, devices = wave_that_is_stopped(tmp_path, {"a": sick, "b": PASSED})

    assert state is Stage.RETURNED
    assert devices["a"] is State.WENT_BACK
    assert devices["b"] in (State.RETURNED, State.WAITING)


def test_a_device_that_a_stop_left_out_makes_no_wave_sick(tmp_path):
    left_out = (Event.SEND, Event.STAGE, Event.LEFT_OUT)

    state, devices = wave_that_is_stopped(tmp_path, {"a": PASSED, "b": left_out})

    assert state is Stage.INTERRUPTED
    assert devices["a"] is State.COMMITTED


def test_an_end_says_what_went_whole_and_each_remedy_once(tmp_path):
    drive, devices = driven(tmp_path, dict.fromkeys("ab", State.WAITING), Stage.ROLLING, max_failures=2)

    def fails(device, tell):
        tell(Told(device.name, Event.SEND))
        tell(Told(device.name, Event.STAGE, said={"sent": 9, "whole_because": ["it is rotten"]}))
        tell(Told(device.name, Event.REFUSE, f"{device.name}: no room", {"remedy": "Make room."}))

    drive._work(devices, fails)
    end = Outcome(drive.rollout, drive.states, drive.messages, evidence=drive.evidence)

    assert end.sent == {"a": 9, "b": 9}
    assert end.whole_because["b"] == ["it is rotten"]
    assert end.remedies == ["Make room."]
    assert end.messages == {"a": "no room", "b": "no room"}

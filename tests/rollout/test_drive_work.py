"""Drive over a fleet that is only thought of: who gets the release, who goes back, and what stops it."""

import time
from threading import Event as Flag

import pytest

from slmops.errors import FencedError, LockedError
from slmops.rollout.assignment import Event, State
from slmops.rollout.history import History
from slmops.rollout.machine import State as Stage
from slmops.rollout.told import Told


class KilledError(BaseException):
    """The driver is killed here."""


class KillsAt:
    """A watcher with which the driver is killed when a device enters a state for the nth time."""

    def __init__(self, state, times=1):
        self.state, self.times = state, times

    def rollout(self, rollout, _wave):
        self._count(rollout.state)

    def device(self, told, state):
        if told.event is not None:
            self._count(state)

    def _count(self, state):
        self.times -= state is self.state
        if self.times == 0 and state is self.state:
            raise KilledError


class Asks:
    """A watcher who leaves a wish when the rollout, or a device, enters a state."""

    def __init__(self, history, state, wish):
        self.history, self.state, self.wish = history, state, wish

    def rollout(self, rollout, _wave):
        self._ask(rollout.state)

    def device(self, _told, state):
        self._ask(state)

    def _ask(self, state):
        if state is self.state and self.wish:
            self.history.wish(self.history.find(None).id, self.wish, "me@here")
            self.wish = ""


def states(outcome):
    return {state.value for state in outcome.states.values()}


def test_everyone_gets_the_release_wave_by_wave(bed):
    outcome = bed.roll_out()

    assert outcome.rollout.state is Stage.SUCCEEDED
    assert states(outcome) == {"committed"}
    assert set(bed.serve().values()) == {"new"}
    assert [line.wave for line in bed.history.devices(outcome.number)] == [1, 2, 2, 3, 3, 3]


def test_the_same_again_is_over_at_once_and_nobody_is_worked_on(bed):
    bed.roll_out()
    records = {name: list(device.records) for name, device in bed.devices.items()}

    outcome = bed.roll_out()

    assert outcome.rollout.state is Stage.SUCCEEDED
    assert states(outcome) == {"already"}
    assert {name: device.records for name, device in bed.devices.items()} == records


def test_a_release_that_fails_on_the_canary_reaches_nobody_else(bed):
    bed.roll_out("old")

    outcome = bed.roll_out("bad", "fail")

    assert outcome.rollout.state is Stage.RETURNED
    assert outcome.exit_code == 5
    assert sorted(state.value for state in outcome.states.values()) == ["waiting"] * 5 + ["went back"]
    assert set(bed.serve().values()) == {"old"}


def test_what_the_gate_cannot_tell_pauses_and_takes_nobody_back(bed):
    bed.roll_out("old")

    outcome = bed.roll_out("new", "inconclusive")

    assert outcome.rollout.state is Stage.PAUSED
    assert outcome.exit_code == 6
    assert states(outcome) == {"unproved", "waiting"}


@pytest.mark.parametrize(
    ("on_error", "end", "serve"),
    [
        ("pause", Stage.PAUSED, {"old", "new"}),
        ("abort", Stage.ABORTED, {"old", "new"}),
        ("rollback-wave", Stage.RETURNED, {"old", "new"}),
        ("rollback-all", Stage.RETURNED, {"old"}),
    ],
)
def test_a_later_wave_that_fails_does_what_the_strategy_says(bed, on_error, end, serve):
    bed.roll_out("old")
    drive, findings = bed.drive("new", on_error=on_error, waves=["100%"], max_unreachable=0)

    class FailsLater:
        def rollout(self, rollout, _wave):
            if rollout.wave == 1:
                drive.reach.outcome = "fail"

        def device(self, told, state):
            pass

    drive.roster.watcher = drive.watcher = FailsLater()
    outcome = drive.run(findings)

    assert outcome.rollout.state is end
    assert set(bed.serve().values()) <= serve
    assert bed.serve()["d0"] == ("old" if on_error == "rollback-all" else "new")


def test_a_lost_device_pauses_the_rollout_and_is_tried_again_when_it_goes_on(bed):
    bed.devices["d1"].cut_at = "after activate"

    outcome = bed.roll_out(waves=["100%"])
    assert outcome.rollout.state is Stage.PAUSED
    assert outcome.states["d1"] is State.LOST

    bed.devices["d1"].cut_at = ""
    on = bed.go_on()

    assert on.rollout.state is Stage.SUCCEEDED
    assert set(bed.serve().values()) == {"new"}


def test_a_report_that_was_lost_after_the_commit_is_found_and_nobody_is_redone(bed):
    bed.devices["d0"].cut_at = "after confirm"
    assert bed.roll_out().rollout.state is Stage.PAUSED
    records = list(bed.devices["d0"].records)

    bed.devices["d0"].cut_at = ""
    on = bed.go_on()

    assert on.states["d0"] is State.COMMITTED
    assert bed.devices["d0"].records == records


@pytest.mark.parametrize("state", [State.SENDING, State.STAGED, State.TRIAL, State.PROVED, State.COMMITTED])
@pytest.mark.parametrize("times", [1, 3])
def test_whoever_takes_up_what_a_killed_driver_left_comes_to_the_same_end(bed, state, times):
    bed.roll_out("old")
    bed.watcher = KillsAt(state, times)
    with pytest.raises(KilledError):
        bed.roll_out("new")
    bed.watcher = type(bed.watcher)(None)
    done = {
        name
        for name, device in bed.devices.items()
        if device.standing.slot == "new" and not device.standing.trial
    }
    records = {name: list(bed.devices[name].records) for name in done}

    outcome = bed.go_on()

    assert outcome.rollout.state is Stage.SUCCEEDED
    assert set(bed.serve().values()) == {"new"}
    assert states(outcome) <= {"committed", "already"}
    assert {name: bed.devices[name].records for name in done} == records


@pytest.mark.parametrize("stage", [Stage.ROLLING, Stage.SOAKING, Stage.RETURNING])
def test_a_rollout_is_taken_up_from_wherever_its_driver_was_killed(bed, stage):
    bed.roll_out("old")
    bed.watcher = KillsAt(stage)
    outcome = "fail" if stage is Stage.RETURNING else "pass"
    with pytest.raises(KilledError):
        bed.roll_out("new", outcome)
    bed.watcher = KillsAt(None)

    end = bed.go_on(outcome=outcome)

    assert end.rollout.state is (Stage.RETURNED if stage is Stage.RETURNING else Stage.SUCCEEDED)


def test_a_wave_that_is_to_be_promoted_waits_for_it(bed):
    outcome = bed.roll_out(advance="manual", waves=["100%"])

    assert outcome.rollout.state is Stage.HOLDING
    assert outcome.exit_code == 0
    assert list(bed.serve().values()) == ["new", *[None] * 5]
    assert bed.go_on().rollout.state is Stage.SUCCEEDED


def test_a_pause_that_is_asked_for_lets_devices_end_and_starts_nobody(bed):
    bed.watcher = Asks(bed.history, State.TRIAL, "pause")

    outcome = bed.roll_out(max_parallel=1, canary=6, max_unavailable={"most": "100%"})

    assert outcome.rollout.state is Stage.PAUSED
    assert "pause" in outcome.why
    assert states(outcome) <= {"committed", "waiting"}
    assert bed.go_on().rollout.state is Stage.SUCCEEDED


@pytest.mark.parametrize(("wish", "end", "serve"), [
    ("abort", Stage.ABORTED, {"new", "old"}), ("abort wave", Stage.RETURNED, {"new", "old"}),
    ("abort all", Stage.RETURNED, {"old"}),
])  # fmt: skip
def test_an_abort_that_is_asked_for_ends_it_and_takes_back_whom_it_says(bed, wish, end, serve):
    bed.roll_out("old")
    bed.watcher = Asks(bed.history, Stage.SOAKING, wish)

    outcome = bed.roll_out("new", canary=2, soak=5)

    assert outcome.rollout.state is end
    assert set(bed.serve().values()) <= serve
    assert "canceled" in states(outcome)


@pytest.mark.parametrize(("back", "serve"), [("none", {"old", "new"}), ("wave", {"old"}), ("all", {"old"})])
def test_what_was_left_can_be_abandoned_by_somebody_else(bed, back, serve):
    bed.roll_out("old")
    assert bed.roll_out("new", advance="manual").rollout.state is Stage.HOLDING

    outcome = bed.go_on(back)

    assert outcome.rollout.state is (Stage.ABORTED if back == "none" else Stage.RETURNED)
    assert set(bed.serve().values()) == serve
    # Whoever was aborted can be deployed to again.
    assert bed.roll_out("new").rollout.state is Stage.SUCCEEDED


def test_a_device_that_goes_back_during_the_soak_takes_its_wave_with_it(bed):
    bed.roll_out("old")

    class GoesBack:
        def rollout(self, rollout, _wave):
            if rollout.state is Stage.SOAKING:
                bed.devices["d0"].write(
                    "rolled_back", slot="new", code="RUN_CRASHLOOP", message="", evidence={}
                )

        def device(self, told, state):
            pass

    bed.watcher = GoesBack()
    outcome = bed.roll_out("new", canary=2, soak=0.01)

    assert outcome.rollout.state is Stage.RETURNED
    assert outcome.states["d0"] is State.WENT_BACK
    assert outcome.states["d1"] is State.RETURNED
    assert set(bed.serve().values()) == {"old"}


def test_a_device_that_another_took_back_to_how_it_was_run_has_gone_back_after_the_soak_too(bed):
    bed.roll_out("old")

    class ChangedAndTakenBack:
        def rollout(self, rollout, _wave):
            if rollout.state is Stage.SOAKING:
                write, slot = bed.devices["d0"].write, {"slot": "new", "boot": "", "deadline": 0.0}
                write("activated", **slot, earlier={"port": 1}, rollout="another")
                write("proved", **slot)
                write("confirmed", slot="new")
                write("rolled_back", slot="new", code="OPERATOR", message="", evidence={})

        def device(self, told, state):
            pass

    bed.watcher = ChangedAndTakenBack()
    outcome = bed.roll_out("new", canary=2, soak=0.01)

    assert outcome.states["d0"] is State.WENT_BACK
    assert bed.serve()["d0"] == "new"


def test_staging_alone_switches_nobody_and_the_deploy_after_it_does(bed):
    outcome = bed.roll_out(stages_only=True)

    assert outcome.rollout.state is Stage.STAGED
    assert states(outcome) == {"ready"}
    assert set(bed.serve().values()) == {None}
    assert bed.roll_out().rollout.state is Stage.SUCCEEDED


def test_an_update_lock_that_is_never_given_up_leaves_its_device_out(bed):
    bed.devices["d2"].update_lock = True

    outcome = bed.roll_out(defer_timeout=0.01, waves=["100%"])

    assert outcome.rollout.state is Stage.PARTIAL
    assert outcome.exit_code == 4
    assert outcome.states["d2"] is State.SKIPPED


def test_a_device_that_failed_too_often_is_not_tried_again(bed):
    bed.roll_out("old")
    for _ in range(3):
        bed.roll_out("bad", "fail")

    outcome = bed.roll_out("bad", "fail")

    assert outcome.states["d0"] is State.QUARANTINED
    # The next in line is the canary now, and fails too.
    assert outcome.states["d1"] is State.WENT_BACK


def test_a_device_that_says_nothing_for_too_long_is_lost_and_nobody_waits_for_it(bed):
    drive, findings = bed.drive(canary=6)
    for_good = Flag()

    def falls_silent(finding, tell):
        tell(Told(finding.device.name, Event.SEND))
        for_good.wait()
        tell(Told(finding.device.name, Event.STAGE))

    drive.reach.bring = falls_silent
    drive.strategy = drive.strategy.model_copy(update={"transfer_timeout": -59.9})
    outcome = drive.run(findings)
    for_good.set()

    assert states(outcome) == {"lost"}
    assert all("sending" in message for message in outcome.messages.values())


def test_a_newer_rollout_over_the_same_devices_supersedes_what_was_left(bed):
    first = bed.roll_out("old", advance="manual")

    second = bed.roll_out("new")

    assert bed.history.find(first.number).state == "superseded"
    assert bed.history.find(second.number).state == "succeeded"


def test_two_drivers_never_have_one_fleet(bed, tmp_path):
    with_it = History(tmp_path / "rollouts.sqlite")
    number = with_it.begin("fleet", "parrot:x", "sha256:x", [[], ["d0"]])
    with_it.hold("fleet", number, 1, "other@there")
    with_it._base.execute("update driver set pid=1")

    with pytest.raises(LockedError, match="other@there"):
        bed.roll_out()
    assert set(bed.serve().values()) == {None}
    with_it.close()


def test_a_driver_whose_fleet_was_taken_away_does_nothing_more(bed):
    class Takes:
        def rollout(self, rollout, wave):
            pass

        def device(self, _told, state):
            if state is State.COMMITTED:
                bed.history.take_away("fleet")
                drive._renewed = -1e9

    bed.watcher = Takes()
    drive, findings = bed.drive(max_parallel=1)
    with pytest.raises(FencedError):
        drive.run(findings)

    assert sum(slot == "new" for slot in bed.serve().values()) <= 2


class StopsAtWindows:
    """A watcher who keeps what is said of windows, and stops the rollout at the second such word."""

    def __init__(self, stop):
        self.stop, self.said = stop, []

    def rollout(self, _rollout, _wave):
        pass

    def device(self, told, _state):
        if told.said.get("step") == "window":
            self.said.append((told.device, told.event, told.said["opens"]))
            if len(self.said) == 2:
                self.stop.set()


def test_devices_whose_window_is_closed_are_told_of_once_with_when_it_opens(bed):
    hour = time.gmtime().tm_hour
    opens = f"{(hour + 3) % 24:02}:00"
    bed.watcher = StopsAtWindows(bed.stop)

    outcome = bed.roll_out(canary=2, windows=[{"from": opens, "to": f"{(hour + 4) % 24:02}:00"}])

    assert outcome.rollout.state is Stage.INTERRUPTED
    assert [(name, event) for name, event, _ in bed.watcher.said] == [("d0", None), ("d1", None)]
    (at,) = {at for *_, at in bed.watcher.said}
    assert time.strftime("%H:%M", time.gmtime(at)) == opens
    doing = {line.device: line.doing for line in bed.history.devices(outcome.number)}
    assert doing["d0"] == {"step": "window", "opens": at}
    assert doing["d5"] == {}

"""What a driver leaves and the next one takes up, and what no driver may do: over a fleet only thought of."""

import threading
from threading import Event as Flag

import pytest

from slmops.errors import FencedError, LockedError
from slmops.rollout.assignment import Event, State
from slmops.rollout.history import History
from slmops.rollout.machine import State as Stage
from slmops.rollout.told import Told


class KilledError(BaseException):
    """The driver is killed here."""


class When:
    """A watcher that does something once, when the rollout or a device enters a state."""

    def __init__(self, state, act):
        self.state, self.act = state, act

    def rollout(self, rollout, _wave):
        self._see(rollout.state)

    def device(self, _told, state):
        self._see(state)

    def _see(self, state):
        act, due = self.act, state is self.state
        if due and act:
            self.act = None
            act()


class Each:
    """Watchers of the rollout."""

    def __init__(self, *watchers):
        self.watchers = watchers

    def rollout(self, *said):
        for watcher in self.watchers:
            watcher.rollout(*said)

    def device(self, *said):
        """See nothing."""


def kill():
    raise KilledError


def interrupt():
    raise KeyboardInterrupt


def crash(device):
    device.write("rolled_back", slot=device.standing.slot, code="RUN_CRASHLOOP", message="", evidence={})


def wish(bed, what):
    return lambda: bed.history.wish(bed.history.find(None).id, what, "me@here")


class DiesBeforeItHolds(History):
    def hold(self, *_):
        raise KilledError


def test_whoever_was_left_out_is_so_still_when_the_driver_was_killed_before_it_wrote_that(bed, tmp_path):
    bed.roll_out(picked=bed.inventory[:1])
    bed.devices["d1"].online = False
    bed.history.close()
    bed.history = DiesBeforeItHolds(tmp_path / "rollouts.sqlite")
    with pytest.raises(KilledError):
        bed.roll_out(max_unreachable=1)
    bed.history.close()
    bed.history = History(tmp_path / "rollouts.sqlite")

    outcome = bed.go_on()

    assert outcome.rollout.state is Stage.PARTIAL
    assert [outcome.states[name].value for name in ("d0", "d1", "d2")] == ["already", "skipped", "committed"]


@pytest.mark.parametrize("back", ["none", "wave", "all"])
def test_a_rollout_that_nobody_needs_can_be_abandoned_wherever_its_driver_was_killed(bed, back):
    bed.roll_out()
    bed.watcher = When(State.ALREADY, kill)
    with pytest.raises(KilledError):
        bed.roll_out()

    assert bed.go_on(back).rollout.state in (Stage.ABORTED, Stage.RETURNED)
    assert set(bed.serve().values()) == {"new"}


def test_nobody_takes_up_what_somebody_else_went_on_with_while_devices_were_looked_at(bed):
    bed.roll_out(advance="manual", waves=["100%"])
    entry = bed.history.find(None)
    late, findings = bed.drive(uid=entry.uid)
    assert bed.go_on().rollout.state is Stage.SUCCEEDED

    with pytest.raises(LockedError, match="somebody else went on"):
        late.go_on(entry, findings)
    assert bed.history.find(None).state == "succeeded"
    assert bed.history.driver(entry.id) is None


def test_a_driver_from_whom_the_fleet_was_taken_writes_nothing_more(bed):
    history = bed.history
    number = history.begin("fleet", "parrot:x", "sha256:x", [[], ["d0"]])
    history.hold("fleet", number, 1, "one@here")
    history.hold("fleet", number, 2, "two@here")

    with pytest.raises(FencedError):
        history.told(number, "d0", "lost", epoch=1)
    with pytest.raises(FencedError):
        history.moved(number, "succeeded", 1, epoch=1)
    history.told(number, "d0", "sending", epoch=2)
    assert [(line.state) for line in history.devices(number)] == ["sending"]
    assert history.find(number).state == "planned"
    assert [event.what for event in history.events(number)] == ["sending"]


def test_what_ended_before_the_fleet_was_held_is_not_superseded(bed):
    first = bed.roll_out("old", advance="manual", waves=["100%"])
    ends = History.hold

    class EndsMeanwhile(History):
        def hold(self, *said):
            if self.find(first.number).state == "holding":
                self.moved(first.number, "succeeded", 2)
            ends(self, *said)

    bed.history.__class__ = EndsMeanwhile
    bed.roll_out()

    assert bed.history.find(first.number).state == "succeeded"


def test_a_device_that_was_given_up_is_not_switched_behind_the_rollouts_back(bed):
    drive, findings = bed.drive(canary=6)
    bring, for_good = drive.reach.bring, Flag()

    def stalls(finding, tell):
        for_good.wait()
        bring(finding, tell)

    drive.reach.bring = stalls
    drive.strategy = drive.strategy.model_copy(update={"transfer_timeout": -59.9})
    outcome = drive.run(findings)
    for_good.set()
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(10)

    assert {state.value for state in outcome.states.values()} == {"lost"}
    assert not any(device.records for device in bed.devices.values())


def test_a_wave_soaks_though_a_bound_was_crossed_for_a_while(bed):
    bed.devices["d0"].fails = True
    bed.watcher = When(Stage.SOAKING, wish(bed, "pause"))

    outcome = bed.roll_out(
        canary=6, max_failures="50%", min_executed=1, soak=60, max_parallel=6,
        max_unavailable={"most": "100%"},
    )  # fmt: skip

    assert outcome.rollout.state is Stage.PAUSED
    assert "pause" in outcome.why


def test_who_went_back_in_the_soak_makes_the_rollout_a_partial_one(bed):
    bed.watcher = When(Stage.SOAKING, lambda: crash(bed.devices["d3"]))

    outcome = bed.roll_out(canary=6, max_failures=1, soak=0.01)

    assert outcome.states["d3"] is State.WENT_BACK
    assert outcome.rollout.state is Stage.PARTIAL


@pytest.mark.parametrize("back", ["none", "wave", "all"])
def test_who_abandons_a_rollout_on_its_way_back_takes_it_all_the_way(bed, back):
    bed.roll_out("old")
    bed.watcher = When(Stage.RETURNING, kill)
    bed.devices["d4"].fails = True
    with pytest.raises(KilledError):
        bed.roll_out()

    outcome = bed.go_on(back)

    assert outcome.rollout.state is Stage.RETURNED
    assert bed.serve()["d5"] == "old"
    assert bed.serve()["d0"] == ("old" if back == "all" else "new")


def test_who_leaves_on_the_way_back_leaves_it_to_be_taken_up_on_the_way_back(bed):
    bed.roll_out("old")
    bed.watcher = Each(When(Stage.SOAKING, wish(bed, "abort all")), When(Stage.RETURNING, interrupt))
    with pytest.raises(KeyboardInterrupt):
        bed.roll_out(soak=60)
    assert bed.history.find(None).state == "returning"

    assert bed.go_on().rollout.state is Stage.RETURNED
    assert set(bed.serve().values()) == {"old"}


def test_the_way_back_is_not_cut_short_by_who_wants_to_stop(bed):
    bed.roll_out("old")
    bed.devices["d5"].fails = True
    bed.watcher = When(Stage.RETURNING, bed.stop.set)

    assert bed.roll_out(canary=6, max_parallel=1, max_failures=0).rollout.state is Stage.RETURNED
    assert set(bed.serve().values()) == {"old"}


def test_who_leaves_when_all_is_done_does_not_undo_the_end(bed):
    bed.watcher = When(Stage.SUCCEEDED, interrupt)

    with pytest.raises(KeyboardInterrupt):
        bed.roll_out()

    assert bed.history.find(None).state == "succeeded"


def test_who_leaves_in_the_middle_leaves_it_interrupted(bed):
    bed.watcher = When(Stage.SOAKING, interrupt)

    with pytest.raises(KeyboardInterrupt):
        bed.roll_out()

    assert bed.history.find(None).state == "interrupted"


def test_a_device_of_which_nothing_is_known_is_not_called_canceled_when_its_rollout_is_abandoned(bed):
    bed.devices["d0"].cut_at = "after activate"
    bed.roll_out(canary=2, waves=["100%"])
    bed.devices["d0"].online = False

    outcome = bed.go_on("none")

    assert outcome.rollout.state is Stage.ABORTED
    assert outcome.states["d0"] is State.LOST
    assert outcome.states["d5"] is State.CANCELED


def test_a_wave_that_is_no_longer_well_is_not_promoted(bed):
    bed.roll_out("old")
    bed.roll_out(canary=2, advance="manual")
    crash(bed.devices["d0"])

    outcome = bed.go_on()

    assert outcome.rollout.state is Stage.RETURNED
    assert set(bed.serve().values()) == {"old"}


def test_who_went_back_in_an_earlier_wave_is_seen_by_whoever_goes_on(bed):
    bed.roll_out("old")
    bed.roll_out(waves=["50%", "100%"], advance="manual")
    bed.go_on()
    crash(bed.devices["d0"])

    outcome = bed.go_on()

    assert outcome.states["d0"] is State.WENT_BACK
    assert outcome.rollout.state is Stage.PARTIAL


def test_who_asks_for_all_to_go_back_is_heard_though_a_wave_fails(bed):
    bed.roll_out("old")
    bed.devices["d4"].fails = True
    bed.watcher = When(State.WENT_BACK, wish(bed, "abort all"))

    outcome = bed.roll_out(on_error="abort")

    assert outcome.rollout.state is Stage.RETURNED
    assert set(bed.serve().values()) == {"old"}


def test_staging_waits_for_no_promotion(bed):
    assert bed.roll_out(stages_only=True, advance="manual").rollout.state is Stage.STAGED


def test_what_lacks_a_device_in_the_fleet_file_can_be_abandoned_still(bed):
    bed.roll_out(advance="manual")
    bed.inventory.pop()

    assert bed.go_on("none").rollout.state is Stage.ABORTED


def activations(bed, name):
    return sum(record["kind"] == "activated" for record in bed.devices[name].records)


def test_what_failed_on_a_device_is_tried_there_again_only_where_somebody_paused_and_looked(bed):
    bed.devices["d0"].fails = True
    bed.watcher = When(State.WENT_BACK, kill)
    with pytest.raises(KilledError):
        bed.roll_out(on_error="pause")

    assert bed.go_on().rollout.state is Stage.PAUSED
    assert activations(bed, "d0") == 1

    bed.devices["d0"].fails = False
    assert bed.go_on().rollout.state is Stage.SUCCEEDED
    assert activations(bed, "d0") == 2


def test_nobody_begins_once_a_bound_is_crossed(bed):
    bed.devices["d0"].fails = True

    outcome = bed.roll_out(canary=6, max_parallel=1, on_error="abort")

    assert outcome.rollout.state is Stage.ABORTED
    assert [name for name in bed.devices if bed.devices[name].records] == ["d0"]


@pytest.mark.parametrize("what", ["wave_timeout", "rollout_timeout"])
def test_what_is_not_decided_in_time_is_paused_and_says_so(bed, what):
    drive, findings = bed.drive(soak=60)
    drive.strategy = drive.strategy.model_copy(update={what: 0.001})
    outcome = drive.run(findings)

    assert outcome.rollout.state is Stage.PAUSED
    assert what in outcome.why


def test_who_soaks_holds_the_fleet_on(bed):
    drive, findings = bed.drive(canary=6, soak=0.01)
    seen = []

    def expire():
        bed.history._base.execute("update driver set until=0")
        drive._renewed = -1e9

    expires = When(Stage.SOAKING, expire)
    looks = When(Stage.SUCCEEDED, lambda: seen.append(bed.history.driver_of("fleet")))
    drive.watcher = Each(expires, looks)
    drive.run(findings)

    assert seen[0] is not None


def test_whoever_worked_for_a_driver_that_is_no_more_goes_no_further(bed):
    drive, findings = bed.drive(canary=6)
    bring, for_good = drive.reach.bring, Flag()

    def waits(finding, tell):
        tell(Told(finding.device.name, Event.SEND))
        for_good.wait()
        bring(finding, tell)

    drive.reach.bring = waits
    drive.roster.watcher = When(State.SENDING, kill)
    with pytest.raises(KilledError):
        drive.run(findings)
    for_good.set()
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(10)

    assert not any(device.records for device in bed.devices.values())


@pytest.mark.parametrize(("what", "end"), [("online", Stage.PAUSED), ("healthy", Stage.RETURNED)])
def test_who_is_not_well_after_the_soak_stops_the_rollout(bed, what, end):
    bed.roll_out("old")
    bed.watcher = When(Stage.SOAKING, lambda: setattr(bed.devices["d1"], what, False))

    outcome = bed.roll_out(canary=2, soak=0.01)

    assert outcome.rollout.state is end

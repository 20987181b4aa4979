"""Whose rollout may change a device: the rules, whatever comes in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slmops.device import lease as leases
from slmops.device.lease import Asked, Clock, Tenure
from slmops.errors import DeviceError, FencedError, LockedError

NOON = Clock(boot="one", monotonic=100.0, unix=1_767_225_600.0)
ROLLOUTS = st.sampled_from(["red", "green", "blue"])
EPOCHS = st.integers(min_value=0, max_value=20)
SECONDS = st.floats(min_value=0.5, max_value=60.0)
ASKED = st.builds(
    Asked,
    ROLLOUTS,
    EPOCHS,
    st.sampled_from(["ann@desk", "bob@desk"]),
    SECONDS,
    st.frozensets(ROLLOUTS, max_size=2),
)


def later(clock, seconds):
    return Clock(clock.boot, clock.monotonic + seconds, clock.unix + seconds)


def asks(rollout, epoch, holder="ann@desk", seconds=60.0):
    return Asked(rollout, epoch, holder, seconds)


def test_who_comes_first_has_the_device_and_others_are_told_who_since_when_and_until_when():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    with pytest.raises(LockedError) as told:
        leases.held(tenure, asks("blue", 6, "bob@desk"), later(NOON, 59))

    assert type(told.value) is LockedError
    assert "ann@desk has this device: rollout red since 2026-01-01 00:00:00Z" in str(told.value)
    assert "until 2026-01-01 00:01:00Z" in str(told.value)
    assert "slmops lock status" in told.value.remedy


def test_a_newer_driver_of_the_same_rollout_takes_over_at_once_and_the_older_is_fenced_off():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    after = leases.held(tenure, asks("red", 6, "bob@desk"), NOON)

    assert leases.standing(after, NOON).holder == "bob@desk"
    assert leases.standing(after, NOON).since == NOON.unix
    with pytest.raises(FencedError, match="epoch 5, and epoch 6 was here since; bob@desk has it now"):
        leases.held(after, asks("red", 5), NOON)


def test_a_driver_that_was_frozen_is_fenced_off_when_it_thaws_though_nobody_holds_the_device():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)
    tenure = leases.ended(leases.held(tenure, asks("blue", 6), later(NOON, 61)))

    assert leases.standing(tenure, later(NOON, 62)) is None
    with pytest.raises(FencedError):
        leases.held(tenure, asks("red", 5), later(NOON, 62))


def test_two_drivers_of_one_epoch_do_not_take_turns():
    tenure = leases.ended(leases.held(Tenure(), asks("blue", 5), NOON))
    tenure = leases.ended(leases.held(tenure, asks("red", 5), NOON))

    with pytest.raises(FencedError):
        leases.held(tenure, asks("blue", 5), NOON)


def test_a_lease_from_before_a_reboot_binds_nobody():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    assert leases.standing(tenure, Clock("two", 1.0, NOON.unix + 1), at_work=True) is None


def test_a_lease_binds_for_as_long_as_its_verb_is_at_work():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    with pytest.raises(LockedError):
        leases.held(tenure, asks("blue", 6), later(NOON, 500), at_work=True)
    assert leases.held(tenure, asks("blue", 6), later(NOON, 500)).rollout == "blue"


def test_who_lost_a_lease_to_a_person_is_told_by_whom_and_why_until_it_comes_anew():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)
    tenure = leases.broken(tenure, 9, "eve@desk", "ann is on holiday", NOON)

    with pytest.raises(
        FencedError, match=r"eve@desk took this device from rollout red .*: ann is on holiday"
    ):
        leases.held(tenure, asks("red", 5), NOON)
    other = leases.held(tenure, asks("blue", 9), NOON)
    assert other.broken.reason == "ann is on holiday"
    assert leases.held(leases.ended(other), asks("red", 10), NOON).broken is None


def test_who_asks_for_no_lease_waits_for_those_who_have_one():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    with pytest.raises(LockedError):
        leases.require_free(tenure, NOON)
    leases.require_free(tenure, later(NOON, 60))
    leases.require_free(leases.ended(tenure), NOON)


def test_a_lease_is_renewed_when_half_of_it_is_gone_and_not_before():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    assert leases.is_fresh(tenure, asks("red", 5), later(NOON, 29))
    assert not leases.is_fresh(tenure, asks("red", 5), later(NOON, 30))
    assert not leases.is_fresh(tenure, asks("red", 6), NOON)


@given(ASKED, ASKED)
def test_what_is_remembered_is_read_back_as_it_was(first, second):
    tenure = leases.broken(leases.held(Tenure(), first, NOON), 30, "eve", "why not", NOON)
    tenure = leases.held(tenure, Asked(second.rollout, 31, second.holder, second.seconds), NOON)

    assert leases.from_said(leases.said(tenure)) == tenure


HELD = leases.said(leases.held(Tenure(), asks("red", 5), NOON))


@pytest.mark.parametrize(
    "rot",
    [
        {},
        {"epoch": "x"},
        {"epoch": 1, "rollout": "", "lease": 5, "broken": None},
        HELD | {"epoch": 2**60},
        HELD | {"lease": {"rollout": "red"}},
        HELD | {"lease": HELD["lease"] | {"deadline": "soon"}},
        HELD | {"lease": HELD["lease"] | {"deadline": None}},
    ],
)
def test_what_has_rotted_remembers_nothing(rot):
    assert leases.from_said(rot) == Tenure()


def test_what_a_newer_agent_wrote_down_besides_is_ignored_and_the_epoch_stays():
    newer = HELD | {"lease": HELD["lease"] | {"colour": "red"}, "more": 1}

    assert leases.from_said(newer) == leases.from_said(HELD)
    assert leases.from_said(newer).epoch == 5


@pytest.mark.parametrize("moment", [1e30, float("inf"), float("nan")])
def test_a_moment_that_no_calendar_has_can_be_told(moment):
    lease = HELD["lease"] | {"since": moment, "until": moment}

    with pytest.raises(LockedError, match="nobody knows when"):
        leases.require_free(leases.from_said(HELD | {"lease": lease}), NOON)


def test_a_rollout_that_its_operator_knows_to_be_over_gives_way_at_once_and_others_do_not():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    for over in (frozenset(), frozenset({"green"})):
        with pytest.raises(LockedError):
            leases.held(tenure, Asked("blue", 6, "ann@desk", 60.0, over), NOON)
    after = leases.held(tenure, Asked("blue", 6, "ann@desk", 60.0, frozenset({"red"})), later(NOON, 5))

    assert leases.standing(after, NOON).rollout == "blue"
    assert leases.standing(after, NOON).since == NOON.unix + 5
    with pytest.raises(FencedError):
        leases.held(after, asks("red", 5), NOON)


def test_a_rollout_that_is_over_does_not_give_way_to_an_older_one_nor_while_its_verb_is_at_work():
    tenure = leases.held(Tenure(), asks("red", 5), NOON)

    with pytest.raises(FencedError):
        leases.held(tenure, Asked("blue", 4, "ann@desk", 60.0, frozenset({"red"})), NOON)
    with pytest.raises(LockedError):
        leases.held(tenure, Asked("blue", 6, "ann@desk", 60.0, frozenset({"red"})), NOON, at_work=True)


GOOD = {"rollout": "red", "epoch": 1, "holder": "ann@desk", "seconds": 60}


@pytest.mark.parametrize(
    "change",
    [
        {"rollout": ""}, {"rollout": None}, {"holder": "a\nb"}, {"holder": "x" * 201}, {"epoch": -1},
        {"epoch": True}, {"epoch": 1.5}, {"epoch": 2**53}, {"seconds": 0}, {"seconds": 3601},
        {"seconds": float("nan")}, {"seconds": "60"}, {"seconds": True},
    ],
)  # fmt: skip
def test_a_lease_that_is_none_is_refused(change):
    assert leases.asked(GOOD).seconds == 60.0
    with pytest.raises(DeviceError, match="lease: expected"):
        leases.asked(GOOD | change)
    with pytest.raises(DeviceError, match="lease: expected an object"):
        leases.asked([])


class Life(RuleBasedStateMachine):
    """A device, those who come to it in any order, time, reboots, and a person who breaks."""

    def __init__(self):
        super().__init__()
        self.tenure, self.clock, self.at_work = Tenure(), NOON, False
        self.heard = 0
        self.writes = []

    @rule(by=ASKED, at_work=st.booleans())
    def somebody_comes(self, by, at_work):
        before = leases.standing(self.tenure, self.clock, at_work=self.at_work)
        try:
            self.tenure = leases.held(self.tenure, by, self.clock, at_work=self.at_work)
        except LockedError:
            assert by.epoch < self.heard or not self._is_free(before, by) or self._is_below(by)
            return
        assert self._is_free(before, by)
        assert by.epoch >= self.heard
        assert before is None or by.rollout == before.rollout or not self.at_work
        self.at_work = at_work
        assert leases.standing(self.tenure, self.clock).rollout == by.rollout
        self.heard = by.epoch

    def _is_free(self, before, by):
        gives_way = before is not None and before.rollout in by.after and not self.at_work
        return before is None or before.rollout == by.rollout or gives_way

    def _is_below(self, by):
        return (by.epoch, by.rollout) < (self.tenure.epoch, self.tenure.rollout)

    @rule(seconds=st.floats(min_value=0, max_value=100), ends=st.booleans())
    def time_passes(self, seconds, ends):
        self.clock, self.at_work = later(self.clock, seconds), self.at_work and not ends

    @rule()
    def the_machine_boots_anew(self):
        self.clock, self.at_work = Clock(self.clock.boot + "'", 0.0, self.clock.unix + 30), False
        assert leases.standing(self.tenure, self.clock) is None

    @precondition(lambda self: self.tenure.lease is not None)
    @rule()
    def it_is_given_back(self):
        self.tenure, self.at_work = leases.ended(self.tenure), False

    @rule(epoch=EPOCHS)
    def a_person_breaks_it(self, epoch):
        lost = self.tenure.lease
        self.tenure = leases.broken(self.tenure, epoch, "eve", "why not", self.clock)
        assert leases.standing(self.tenure, self.clock, at_work=True) is None
        assert self.tenure.epoch > self.heard
        self.heard = self.tenure.epoch
        if lost is not None:
            with pytest.raises(FencedError, match="why not"):
                leases.held(self.tenure, Asked(lost.rollout, lost.epoch, lost.holder, 60.0), self.clock)

    @invariant()
    def the_epoch_never_falls(self):
        assert self.tenure.epoch == self.heard

    @invariant()
    def a_lease_whose_time_is_up_binds_nobody(self):
        lease = leases.standing(self.tenure, self.clock)
        assert lease is None or self.clock.monotonic < lease.deadline


TestLife = Life.TestCase

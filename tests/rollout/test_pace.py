"""Who may begin now: a fleet that does what it is allowed to keeps every bound, and gets to its end."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import MaxUnavailable, Rate, Strategy, at_most
from slmops.fleet.window import Window, is_open
from slmops.rollout.assignment import BAD, GOOD, UNDER_WAY, State
from slmops.rollout.pace import DOWN, Clock, Pace

DAY = 86_400
NIGHT = [Window(opens="22:00", closes="04:00")]
NOON = 1_780_315_200.0  # 2026-06-01 12:00 UTC, a Monday
MIDDAY = Clock(NOON)

shares = st.integers(0, 5) | st.integers(0, 100).map("{}%".format)
rates = st.none() | st.builds(
    Rate,
    per_minute=st.sampled_from([0.1, 0.5, 1, 1.5, 2.7, 10]),
    factor=st.sampled_from([1, 1.5, 10]),
    after=st.integers(1, 4),
)
strategies = st.builds(
    Strategy,
    max_parallel=st.integers(1, 5),
    max_unavailable=st.builds(MaxUnavailable, most=shares),
    rate=rates,
    windows=st.sampled_from([[], NIGHT, [Window(days=["sat"], opens="01:00", closes="01:30"), *NIGHT]]),
)
fleets = st.lists(
    st.tuples(
        st.sampled_from(["berlin", "lyon", None]), st.sampled_from(["UTC", "Asia/Tokyo", "America/St_Johns"])
    ),
    min_size=1,
    max_size=14,
).map(
    lambda said: [
        Device(f"edge-{at}", f"h{at}", labels={"site": site} if site else {}, timezone=zone)
        for at, (site, zone) in enumerate(said)
    ]
)


def fleet(count, **about):
    return [Device(f"edge-{at}", f"h{at}", **about) for at in range(count)]


def names(devices):
    return [device.name for device in devices]


def started(devices, strategy, states=None, clock=MIDDAY, everyone=None):
    there = {device.name: device for device in everyone or devices}
    return names(Pace(there, strategy).may_start(devices, states or {}, clock))


def woken(devices, strategy, states=None, clock=MIDDAY):
    return Pace({device.name: device for device in devices}, strategy).wake(devices, states or {}, clock)


def test_as_many_begin_as_may_be_worked_on_at_once_in_the_order_they_wait():
    assert started(fleet(5), Strategy(max_parallel=3)) == ["edge-0", "edge-1", "edge-2"]
    assert started(
        fleet(5)[2:], Strategy(max_parallel=3), {"edge-0": State.SENDING, "edge-1": State.TRIAL}
    ) == ["edge-2"]


def test_where_all_hands_are_full_time_alone_helps_nobody():
    full = {"edge-0": State.PROVED}

    assert started(fleet(2)[1:], Strategy(max_parallel=1), full) == []
    assert woken(fleet(2)[1:], Strategy(max_parallel=1), full) is None


def test_a_device_that_waits_or_is_at_its_end_takes_no_hand():
    others = {f"x{at}": state for at, state in enumerate(State) if state not in UNDER_WAY}

    assert len(started(fleet(2), Strategy(max_parallel=2), others)) == 2


@pytest.mark.parametrize(("most", "count"), [("25%", 2), ("10%", 1), ("0%", 1), (0, 1), (3, 3), ("100%", 8)])
def test_a_share_of_a_site_is_rounded_down_and_one_may_always_go(most, count):
    strategy = Strategy(max_unavailable=MaxUnavailable(most=most))

    assert len(started(fleet(8, labels={"site": "berlin"}), strategy)) == count


def test_a_site_is_counted_with_its_devices_of_other_waves():
    everyone = fleet(8, labels={"site": "berlin"})

    assert len(started(everyone[:3], Strategy(), everyone=everyone)) == 2


def test_a_device_without_the_label_is_not_bound():
    assert len(started(fleet(8), Strategy())) == 8


def test_a_device_that_is_down_counts_until_nobody_of_its_site_is_worked_on():
    devices = fleet(8, labels={"site": "berlin"})
    strategy = Strategy(max_unavailable=MaxUnavailable(most=2))

    def begun(first, second):
        states = {"edge-0": first, "edge-1": second}
        return started(devices[2:], strategy, states, everyone=devices)

    assert begun(State.COMMITTED, State.WENT_BACK) == ["edge-2", "edge-3"]
    assert begun(State.LOST, State.COMMITTED) == ["edge-2"]
    assert begun(State.LOST, State.STUCK) == ["edge-2"]
    assert begun(State.LOST, State.TRIAL) == []


def test_a_full_site_does_not_hold_up_another():
    berlin, lyon = fleet(2, labels={"site": "berlin"}), Device("lyon", "h", labels={"site": "lyon"})

    assert started([*berlin, lyon], Strategy()) == ["edge-0", "lyon"]


@pytest.mark.parametrize(
    ("per_minute", "succeeded", "count"),
    [(2, 0, 2), (2, 9, 2), (2, 10, 6), (2, 25, 18), (0.2, 0, 1), (2, 10**9, 20)],
)
def test_a_rate_grows_with_every_so_many_that_ended_well(per_minute, succeeded, count):
    strategy = Strategy(rate=Rate(per_minute=per_minute, factor=3, after=10), max_parallel=20)

    assert len(started(fleet(50), strategy, clock=Clock(NOON, [], succeeded))) == count


def test_the_next_begins_when_the_oldest_start_is_a_minute_ago():
    strategy = Strategy(rate=Rate(per_minute=2))
    clock = Clock(NOON, [NOON - 50, NOON - 20])

    assert started(fleet(3), strategy, clock=clock) == []
    assert woken(fleet(3), strategy, clock=clock) == 10
    assert len(started(fleet(3), strategy, clock=replace(clock, now=NOON + 10))) == 1


def test_less_than_one_a_minute_is_one_in_several_minutes():
    strategy = Strategy(rate=Rate(per_minute=0.1))

    assert woken(fleet(1), strategy, clock=Clock(NOON, [NOON])) == 600


def test_a_start_yet_to_come_is_of_a_clock_that_was_set_back_and_holds_up_nobody():
    assert started(fleet(1), Strategy(rate=Rate(per_minute=1)), clock=Clock(NOON, [NOON + DAY])) == ["edge-0"]


def test_a_device_begins_in_its_own_night():
    here, there = Device("here", "h", timezone="UTC"), Device("there", "h", timezone="Asia/Tokyo")
    strategy = Strategy(windows=NIGHT)
    evening = Clock(NOON + 3600)  # 22:00 in Tokyo

    assert started([here, there], strategy) == []
    assert woken([here, there], strategy) == 3600
    assert started([here, there], strategy, clock=evening) == ["there"]
    assert woken([here], strategy, clock=evening) == 9 * 3600


def test_a_window_that_closes_before_the_rate_has_room_is_waited_for_again():
    strategy = Strategy(windows=[Window(opens="12:00", closes="12:01")], rate=Rate(per_minute=0.5))

    assert woken(fleet(1), strategy, clock=Clock(NOON, [NOON - 10])) == DAY


def test_nobody_is_woken_for_nobody():
    assert woken([], Strategy()) is None


def test_where_somebody_may_begin_there_is_no_wait():
    assert woken(fleet(1), Strategy()) == 0


class Fake:
    """A fleet in which devices are worked on for some seconds, and end as they are told."""

    def __init__(self, devices, strategy):
        self.devices, self.strategy = devices, strategy
        self.everyone = {device.name: device for device in devices}
        self.pace = Pace(self.everyone, strategy)
        self.states = dict.fromkeys(self.everyone, State.WAITING)
        self.now, self.starts, self.ends = NOON, [], {}

    @property
    def clock(self):
        good = sum(state in GOOD for state in self.states.values())
        return Clock(self.now, list(self.starts), good)

    @property
    def waiting(self):
        return [device for device in self.devices if self.states[device.name] is State.WAITING]

    def begin(self, took):
        """Let begin whoever may; return them."""
        chosen = self.pace.may_start(self.waiting, self.states, self.clock)
        for device in chosen:
            self.states[device.name] = State.SENDING
            self.starts.append(self.now)
            self.ends[device.name] = self.now + took()
        return chosen

    def go_on(self, how):
        """Wait for time or for a device, whichever is first."""
        first = min(self.ends, key=self.ends.__getitem__, default=None)
        wait = self.pace.wake(self.waiting, self.states, self.clock)
        assert first is not None or wait is not None, "a rollout that waits for ever"
        if wait is not None and (first is None or self.now + wait < self.ends[first]):
            assert wait > 0, "told to look again, and may do nothing"
            self.now += wait
        else:
            self.now = max(self.now, self.ends.pop(first))
            self.states[first] = how()


@given(fleets, strategies, st.data())
def test_following_wake_a_rollout_gets_to_its_end_and_keeps_every_bound(devices, strategy, data):
    fake = Fake(devices, strategy)
    ends = sorted(BAD | GOOD | DOWN, key=lambda state: state.value)

    def took():
        return data.draw(st.sampled_from([1, 45, 3600, DAY]), label="took")

    while set(fake.states.values()) & {State.WAITING, *UNDER_WAY}:
        clock = fake.clock
        for device in fake.begin(took):
            assert is_open(strategy.windows, device.timezone, fake.now)
        keeps_the_bounds(fake)
        keeps_the_rate(fake, clock)
        if set(fake.states.values()) & {State.WAITING, *UNDER_WAY}:
            fake.go_on(lambda: data.draw(st.sampled_from(ends), label="ended"))


def keeps_the_bounds(fake):
    busy = Counter(site(fake, name) for name, state in fake.states.items() if state in UNDER_WAY)
    sizes = Counter(site(fake, name) for name in fake.states)

    assert busy.total() <= fake.strategy.max_parallel
    for value, count in busy.items():
        most = at_most(fake.strategy.max_unavailable.most, sizes[value])
        assert value is None or count <= max(1, most)


def keeps_the_rate(fake, clock):
    if fake.strategy.rate is None:
        return
    rate = fake.strategy.rate.per_minute * fake.strategy.rate.factor ** (
        clock.succeeded // fake.strategy.rate.after
    )
    span = 60 * max(1, int(rate)) / rate
    new = len(fake.starts) - len(clock.starts)
    lately = [start for start in fake.starts if start + span > fake.now]

    assert new == 0 or len(lately) <= max(1, int(rate))


def site(fake, name):
    return fake.everyone[name].labels.get("site")


@given(
    fleets, strategies, st.floats(NOON, NOON + 8 * DAY), st.lists(st.floats(0, 700), max_size=12), st.data()
)
def test_wake_is_when_time_alone_changes_the_answer(devices, strategy, now, ago, data):
    states = {device.name: data.draw(st.sampled_from(State)) for device in devices}
    waiting = [device for device in devices if states[device.name] is State.WAITING]
    pace = Pace({device.name: device for device in devices}, strategy)
    clock = Clock(now, sorted(now - each for each in ago))

    wait = pace.wake(waiting, states, clock)

    assert bool(pace.may_start(waiting, states, clock)) == (wait == 0)
    for share in (0.01, 0.5, 0.99):
        if wait is None:
            later = replace(clock, now=now + share * 8 * DAY)
        elif wait > 0.001:
            later = replace(clock, now=now + share * wait)
        else:
            continue
        assert pace.may_start(waiting, states, later) == []
    if wait:
        assert pace.may_start(waiting, states, replace(clock, now=now + wait + 0.001)) != []

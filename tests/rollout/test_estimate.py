"""How long a rollout may take: by what was measured, and nothing made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.fleet.strategy import Rate
from slmops.rollout.estimate import UNKNOWN, Expected, Job, Pace, Past, in_turn, learn, of_device, of_wave
from slmops.rollout.plan import Known

MB = 1_000_000
SPANS = st.floats(0, 1e4)
JOBS = st.lists(
    st.builds(
        Job,
        st.builds(Expected, SPANS, st.sampled_from([Known.WHOLE, Known.SENDING])),
        st.sampled_from([None, "a", "b"]),
        st.just(2),
    ),
    max_size=12,
)


def whole(*seconds):
    return [Job(Expected(each, Known.WHOLE)) for each in seconds]


def test_a_profile_goes_as_the_median_of_its_devices_went():
    pasts = [
        Past("pi", 10 * MB, sending=10.0, work=6.0),
        Past("pi", 10 * MB, sending=5.0, work=7.0),
        Past("pi", 10 * MB, sending=1.0, work=53.0),
        Past("nuc", 10 * MB, sending=1.0, work=2.0),
    ]

    assert learn(pasts) == {"pi": Pace(2.0 * MB, 7.0), "nuc": Pace(10.0 * MB, 2.0)}


def test_a_transfer_of_a_few_bytes_tells_nothing_of_a_link():
    assert learn([Past("pi", 300, sending=1.0, work=2.0)]) == {"pi": Pace(None, 2.0)}


@pytest.mark.parametrize(
    ("pace", "sends", "bandwidth", "expected"),
    [
        (Pace(2.0 * MB, 7.0), 10 * MB, None, Expected(12.0, Known.WHOLE)),
        (Pace(2.0 * MB, 7.0), 10 * MB, 1 * MB, Expected(17.0, Known.WHOLE)),
        (Pace(None, 7.0), 0, None, Expected(7.0, Known.WHOLE)),
        (Pace(None, 7.0), 10 * MB, 1 * MB, Expected(17.0, Known.WHOLE)),
        (None, 10 * MB, 1 * MB, Expected(10.0, Known.SENDING)),
        (Pace(None, 7.0), 10 * MB, None, UNKNOWN),
        (None, 10 * MB, None, UNKNOWN),
        (None, 0, 1 * MB, UNKNOWN),
    ],
)
def test_what_a_device_may_take_is_what_is_known_of_it(pace, sends, bandwidth, expected):
    assert of_device(pace, sends, bandwidth) == expected


@given(st.floats(1, 1e9), SPANS, st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_more_bytes_never_take_less(rate, work, some, more):
    pace = Pace(rate, work)

    assert of_device(pace, some + more, None).seconds >= of_device(pace, some, None).seconds


def test_a_wave_goes_as_many_at_a_time_as_are_worked_on():
    assert of_wave(whole(3, 3, 3, 3, 3), hands=2).seconds == 9
    assert of_wave(whole(3, 3, 3, 3, 3), hands=5).seconds == 3
    assert of_wave([], hands=5) == Expected(0.0, Known.WHOLE)


def test_a_site_that_may_not_go_together_takes_its_turns():
    berlin = [Job(Expected(3.0, Known.WHOLE), "berlin", 1)] * 4

    assert of_wave([*berlin, *whole(3, 3)], hands=10).seconds == 12


def test_a_rate_lets_so_many_begin_in_a_minute_and_may_grow():
    def took(devices, **rate):
        return of_wave(whole(*[1.0] * devices), hands=100, rate=Rate(**rate)).seconds

    assert took(6, per_minute=6) == 1
    assert took(19, per_minute=6) == 181
    assert took(19, per_minute=6, factor=2, after=6) == 121
    assert took(2, per_minute=0.5) == 121
    assert took(50, per_minute=100_000, factor=10, after=1) == 1


@given(JOBS, st.integers(1, 4))
def test_a_wave_takes_its_longest_device_at_least_and_all_in_turn_at_most(jobs, hands):
    spans = [job.expected.seconds for job in jobs]
    took = of_wave(jobs, hands).seconds

    assert max(spans, default=0) <= took <= sum(spans) * (1 + 1e-9)


@given(JOBS, st.integers(1, 4))
def test_more_hands_never_take_longer(jobs, hands):
    assert of_wave(jobs, hands + 1).seconds <= of_wave(jobs, hands).seconds * (1 + 1e-9)


@given(JOBS, JOBS, st.integers(1, 4))
def test_of_a_wave_with_an_unknown_device_nothing_is_said(some, others, hands):
    assert of_wave([*some, Job(UNKNOWN), *others], hands) == UNKNOWN


def test_a_bound_from_below_stays_one():
    known, below = Expected(3.0, Known.WHOLE), Expected(4.0, Known.SENDING)

    assert in_turn([known, known], 60.0) == Expected(66.0, Known.WHOLE)
    assert in_turn([known, below], 60.0) == Expected(67.0, Known.SENDING)
    assert in_turn([known, UNKNOWN, below], 60.0) == UNKNOWN

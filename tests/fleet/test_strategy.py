"""How fast and how far a rollout may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.document import dumps, loads
from slmops.errors import DocumentError
from slmops.fleet.strategy import Strategy, at_least_one, at_most, seconds

PERCENTS = st.integers(0, 100).map("{}%".format)
SHARES = PERCENTS | st.integers(0, 1000)
WHOLES = st.integers(0, 1000)


def read(text):
    return loads(text, Strategy, "fleet.yaml")


@pytest.mark.parametrize(
    ("said", "value"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25), ("1.5m", 90)],
)
def test_a_duration_is_read_as_seconds(said, value):
    assert seconds(said) == value
    assert read(f"soak: {said}").soak == value


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_the_parts_of_a_duration_add_up(hours, minutes, rest):
    assert seconds(f"{hours}h{minutes}m{rest}s") == 3600 * hours + 60 * minutes + rest


@given(st.floats(0, 1e9) | st.integers(0, 10**9))
def test_a_number_is_seconds_already(number):
    assert seconds(number) == number


@given(st.text())
def test_what_a_duration_is_read_as_is_never_negative(said):
    try:
        value = seconds(said)
    except ValueError:
        return
    assert value >= 0


@pytest.mark.parametrize("said", ["90", "", "5 m", "-5m", "m", "5x", "1h 30m", "5M", "soon"])
def test_what_is_no_duration_is_refused_naming_line_and_key(said):
    with pytest.raises(DocumentError, match=r"fleet\.yaml, line 2: soak: expected a duration such as 90s"):
        read(f'max_parallel: 3\nsoak: "{said}"')


@pytest.mark.parametrize(("said", "words"), [("-1", "at least 0"), ("true", "a number"), ("[1]", "a number")])
def test_a_duration_of_another_kind_is_refused_saying_what_was_expected(said, words):
    with pytest.raises(DocumentError, match=f"line 1: soak: expected {words}"):
        read(f"soak: {said}")


@given(SHARES, WHOLES)
def test_a_share_is_at_least_one_device_and_at_most_all(share, whole):
    assert 1 <= at_least_one(share, whole) <= max(1, whole)


@given(SHARES, WHOLES)
def test_what_may_be_lost_is_no_more_than_what_is_meant(share, whole):
    assert 0 <= at_most(share, whole) <= min(whole, at_least_one(share, whole))


@given(PERCENTS, WHOLES)
def test_a_percentage_is_rounded_up_to_act_and_down_to_lose(share, whole):
    exact = int(share[:-1]) * whole

    assert at_least_one(share, whole) == max(1, -(-exact // 100))
    assert at_most(share, whole) == exact // 100


@given(st.integers(0, 100), st.integers(0, 100), WHOLES)
def test_a_larger_share_is_never_fewer_devices(one, other, whole):
    less, more = (f"{percent}%" for percent in sorted((one, other)))

    assert at_least_one(less, whole) <= at_least_one(more, whole)
    assert at_most(less, whole) <= at_most(more, whole)


@given(st.integers(1, 1000))
def test_all_of_a_fleet_is_all_of_it(whole):
    assert at_least_one("100%", whole) == at_most("100%", whole) == whole


def test_ten_percent_of_a_small_fleet_is_one_device_and_none_may_be_lost():
    assert (at_least_one("10%", 9), at_most("10%", 9)) == (1, 0)


@pytest.mark.parametrize("share", ["101%", "-1%", "1.5%", "%", "half", "10 %", "1000%"])
def test_what_is_no_share_is_refused_naming_line_and_key(share):
    with pytest.raises(DocumentError, match=r"line 2: waves\[1\]: expected a number of devices or a perc"):
        read(f'soak: 1\nwaves: [1, "{share}"]')


@pytest.mark.parametrize("share", ["-1", "1.5", "true", "[1]", "null"])
def test_a_share_of_another_kind_is_refused(share):
    with pytest.raises(DocumentError, match="line 1: max_failures: expected a number of devices"):
        read(f"max_failures: {share}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("waves: []", "line 1: waves: .*at least 1 item"),
        ("max_parallel: 0", "line 1: max_parallel: expected at least 1"),
        ("max_parallel: 501", "line 1: max_parallel: expected at most 500"),
        ("max_paralel: 5", "line 1: max_paralel: unknown key; did you mean 'max_parallel'"),
        ("canary: per-device", "line 1: canary: "),
    ],
)
def test_a_strategy_that_cannot_be_meant_is_refused(text, words):
    with pytest.raises(DocumentError, match=words):
        read(text)


@given(SHARES, st.lists(SHARES, min_size=1, max_size=3), st.floats(0, 1e6), st.integers(1, 500))
def test_a_strategy_is_read_as_it_was_written(share, waves, soak, parallel):
    strategy = Strategy(canary=share, waves=waves, soak=soak, max_parallel=parallel, max_failures=share)

    assert read(dumps(strategy)) == strategy


def test_the_default_proves_every_profile_first_and_forgives_nothing():
    strategy = Strategy()

    assert strategy.canary == "per-profile"
    assert strategy.waves[-1] == "100%"
    assert strategy.max_failures == 0

"""How fast and how far a rollout may go."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.document import dumps, loads
from slmops.errors import DocumentError
from slmops.fleet.duration import seconds
from slmops.fleet.strategy import (
    PER_PROFILE,
    Canary,
    MaxUnavailable,
    Quarantine,
    Rate,
    Step,
    Strategy,
    at_least_one,
    at_most,
)
from slmops.fleet.window import Window

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
    assert read(f"soak: {said}\nwave_timeout: 3d").soak == value


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
        ("waves: []", "line 1: waves: expected at least 1 of them, got an empty list"),
        ("max_parallel: 0", "line 1: max_parallel: expected at least 1"),
        ("max_parallel: 501", "line 1: max_parallel: expected at most 500"),
        ("max_paralel: 5", "line 1: max_paralel: unknown key; did you mean 'max_parallel'"),
        ("canary: per-device", "line 1: canary: .*per-profile, or a mapping such as {each: "),
        ("canary: {each: []}", "line 1: canary.each: expected at least 1 of them, got an empty list"),
        ("canary: {every: [site]}", "line 1: canary.every: unknown key; expected one of each, least, most"),
        ("canary: {least: 0}", "line 1: canary.least: expected at least 1"),
        ("waves: [{soak: 1m}]", r"line 1: waves\[0\]: a wave says whom it takes by either share or select"),
        ("waves: [{share: 5, select: a}]", r"line 1: waves\[0\]: a wave says whom it takes by either"),
        ("waves: [{select: a, sok: 1m}]", r"line 1: waves\[0\].sok: unknown key; did you mean 'soak'"),
        ("advance: maybe", "line 1: advance: expected 'auto' or 'manual', got 'maybe'"),
        ("max_unavailable: 25%", "line 1: max_unavailable: expected a mapping"),
        ("max_unavailable: {most: 120%}", "line 1: max_unavailable.most: expected a number of devices or"),
        ("min_executed: 0", "line 1: min_executed: expected at least 1"),
        ("rate: {factor: 2}", "line 1: rate.per_minute: missing key"),
        ("rate: {per_minute: 0}", "line 1: rate.per_minute: expected more than 0"),
        ("windows: [{from: 1:00, to: 05:00}]", r"line 1: windows\[0\].from: expected a time of day"),
        ("wave_timeout: 0s", "line 1: wave_timeout: expected more than 0"),
        ("wave_timeout: 12000d", "line 1: wave_timeout: expected at most 316224000"),
        (f"soak: {'9' * 400}s", "line 1: soak: expected at most 316224000"),
        ("transfer_timeout: soon", "line 1: transfer_timeout: expected a duration such as 90s"),
        ("on_error: stop", "line 1: on_error: expected 'pause', 'abort', 'rollback-wave' or 'rollback-all'"),
        ("quarantine: {for: 0s}", "line 1: quarantine.for: expected more than 0"),
    ],
)
def test_a_strategy_that_cannot_be_meant_is_refused(text, words):
    with pytest.raises(DocumentError, match=words):
        read(text)


CANARIES = SHARES | st.just(PER_PROFILE) | st.builds(Canary, least=st.integers(1, 9), most=SHARES)
SOAKS = st.floats(0, 86_399)
STEPS = st.builds(
    Step, share=SHARES, soak=st.none() | SOAKS, advance=st.sampled_from([None, "auto", "manual"])
) | st.builds(Step, select=st.sampled_from(["site=berlin", "!a"]), max_failures=st.none() | SHARES)
STRATEGIES = st.builds(
    Strategy,
    canary=CANARIES,
    waves=st.lists(SHARES | STEPS, min_size=1, max_size=3),
    soak=SOAKS,
    max_parallel=st.integers(1, 500),
    max_unavailable=st.builds(MaxUnavailable, by=st.sampled_from(["site", "rack"]), most=SHARES),
    max_failures=SHARES,
    rate=st.none() | st.builds(Rate, per_minute=st.floats(0.01, 100), factor=st.floats(1, 10)),
    windows=st.sampled_from(
        [[], [Window(opens="22:00", closes="04:00"), Window(opens="12:00", closes="13:00")]]
    ),
    on_error=st.sampled_from(["pause", "abort", "rollback-wave", "rollback-all"]),
    quarantine=st.builds(Quarantine, after=st.integers(1, 9), seconds=st.floats(1, 1e6)),
)


@given(STRATEGIES)
def test_a_strategy_is_read_as_it_was_written(strategy):
    assert read(dumps(strategy)) == strategy


@given(STRATEGIES)
def test_a_strategy_goes_to_json_and_back(strategy):
    assert Strategy.model_validate(json.loads(json.dumps(strategy.model_dump(mode="json")))) == strategy


def test_the_default_proves_every_profile_at_every_site_first_and_forgives_nothing():
    strategy = Strategy()

    assert strategy.canary == Canary(each=("profile", "site"))
    assert strategy.waves[-1] == "100%"
    assert strategy.max_failures == 0
    assert strategy.on_error == "rollback-wave"


def test_what_older_fleet_files_say_is_still_understood():
    strategy = read(
        "canary: per-profile\nwaves: [10%, 50%, 100%]\nsoak: 10m\nmax_parallel: 10\nmax_failures: 0\n"
        "max_unreachable: 10%\nready_timeout: 2m\ngate_timeout: 5m\nconfirm_timeout: 2m\n"
    )

    assert (strategy.canary, strategy.soak, strategy.ready_timeout) == ("per-profile", 600, 120)
    assert (read("canary: 1").canary, read("canary: 5%").canary) == (1, "5%")


def test_a_strategy_says_whom_when_and_how_fast():
    strategy = read(
        "canary: {each: [profile, region], least: 2}\n"
        "waves:\n"
        "  - 10%\n"
        "  - {select: 'site=berlin,!kiosk', soak: 1h, advance: manual, max_failures: 1}\n"
        "  - {share: 100%, soak: 0s}\n"
        "max_unavailable: {by: rack, most: 1}\n"
        "rate: {per_minute: 2, factor: 1.5, after: 20}\n"
        "windows:\n"
        "  - {days: [mon, tue], from: 01:00, to: 05:00}\n"
        "  - {from: 22:00, to: 02:00}\n"
        "quarantine: {after: 2, for: 12h}\n"
    )

    assert strategy.canary == Canary(each=("profile", "region"), least=2)
    assert strategy.waves[1] == Step(select="site=berlin,!kiosk", soak=3600, advance="manual", max_failures=1)
    assert strategy.max_unavailable == MaxUnavailable(by="rack", most=1)
    assert strategy.rate == Rate(per_minute=2, factor=1.5, after=20)
    assert strategy.windows[0] == Window(days=("mon", "tue"), opens="01:00", closes="05:00")
    assert strategy.quarantine == Quarantine(after=2, seconds=43_200)


def test_windows_that_leave_a_wave_no_time_are_refused():
    with pytest.raises(DocumentError, match=r"windows: no window is open for 164h, and wave_timeout is 24h"):
        read("windows: [{days: [sun], from: 01:00, to: 05:00}]")

    assert read("windows: [{days: [sun], from: 01:00, to: 05:00}]\nwave_timeout: 7d").windows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("soak: 2d", "line 1: soak: it is 172800 s, and wave_timeout is 86400 s: a wave could not end"),
        ("soak: 60\nwave_timeout: 1m", "line 1: soak: it is 60 s, and wave_timeout is 60 s"),
        ("rollout_timeout: 1h\nsoak: 2h", "line 2: soak: it is 7200 s, and rollout_timeout is 3600 s"),
        ("waves: [{share: 100%, soak: 25h}]", r"line 1: waves\[0\].soak: it is 90000 s, and wave_timeout is"),
    ],
)
def test_a_soak_that_leaves_a_wave_no_time_is_refused(text, words):
    with pytest.raises(DocumentError, match=words):
        read(text)

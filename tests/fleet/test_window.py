"""When a device may be worked on, on its own wall clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.document import dumps, loads
from slmops.errors import DocumentError
from slmops.fleet.window import WEEK, Window, is_open, longest_closed, opens_in

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
]
DAY = 86_400

times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))
windows = st.builds(
    lambda days, hours: Window(days=days, opens=hours[0], closes=hours[1]),
    st.lists(st.sampled_from(WEEK), min_size=1, max_size=3, unique=True),
    st.tuples(times, times | st.just("24:00")).filter(lambda hours: hours[0] != hours[1]),
)
# Around both turns of the clocks in 2026 and 2027, and between.
instants = st.integers(int(datetime(2026, 3, 1, tzinfo=BERLIN).timestamp()), 13 * 31 * DAY + 1_772_000_000)


def window(opens, closes, *days):
    return [Window(opens=opens, closes=closes, **({"days": days} if days else {}))]


def clock(text):
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def at(text, zone=BERLIN, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def test_without_windows_it_is_always_open():
    assert is_open([], "UTC", 0)
    assert opens_in([], "UTC", 0) == 0


@pytest.mark.parametrize(
    ("when", "opened"),
    [
        ("2026-06-02 00:59:59", False),
        ("2026-06-02 01:00", True),
        ("2026-06-02 04:59:59", True),
        ("2026-06-02 05:00", False),
    ],
)
def test_a_window_has_its_first_second_and_not_the_one_after_its_last(when, opened):
    assert is_open(window("01:00", "05:00"), "Europe/Berlin", at(when)) is opened


@pytest.mark.parametrize(
    ("when", "opened"),
    [
        ("2026-06-05 23:00", True),  # Friday
        ("2026-06-06 03:59", True),  # Saturday, in Friday's window
        ("2026-06-06 23:00", False),  # Saturday's own evening
        ("2026-06-05 03:00", False),  # Friday, in Thursday's night
    ],
)
def test_a_window_across_midnight_is_its_first_days(when, opened):
    assert is_open(window("22:00", "04:00", "fri"), "Europe/Berlin", at(when)) is opened


def test_a_window_across_the_end_of_the_week_goes_on_on_monday():
    night = window("22:00", "04:00", "sun")

    assert is_open(night, "Europe/Berlin", at("2026-06-08 03:00"))
    assert not is_open(night, "Europe/Berlin", at("2026-06-08 04:00"))
    assert not is_open(night, "Europe/Berlin", at("2026-06-07 03:00"))


def test_each_device_goes_by_its_own_clock():
    noon = datetime(2026, 6, 2, 12, tzinfo=ZoneInfo("UTC")).timestamp()

    assert is_open(window("12:00", "13:00"), "UTC", noon)
    assert is_open(window("14:00", "15:00"), "Europe/Berlin", noon)
    assert opens_in(window("12:00", "13:00"), "America/New_York", noon) == 4 * 3600


def test_a_whole_day_may_be_a_window():
    assert opens_in(window("00:00", "24:00", "sun"), "UTC", 0) == 3 * DAY  # the epoch was a Thursday


def test_a_window_in_the_hour_that_the_clocks_skip_is_skipped():
    night = window("02:00", "03:00")

    assert opens_in(night, "Europe/Berlin", at("2026-03-29 01:59")) == at("2026-03-30 02:00") - at(
        "2026-03-29 01:59"
    )


def test_a_window_that_begins_in_the_hour_that_the_clocks_skip_begins_when_they_have():
    before = at("2026-03-29 01:59")

    assert opens_in(window("02:30", "04:00"), "Europe/Berlin", before) == 60
    assert is_open(window("02:30", "04:00"), "Europe/Berlin", before + 60)


def test_a_window_in_the_hour_that_comes_twice_is_open_twice():
    quarter = window("02:30", "02:45")
    first, second = at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1)

    assert second - first == 3600
    assert is_open(quarter, "Europe/Berlin", first)
    assert is_open(quarter, "Europe/Berlin", second)
    assert opens_in(quarter, "Europe/Berlin", first + 900) == 45 * 60


def test_a_window_that_ended_is_open_again_when_the_clocks_are_turned_back_into_it():
    night = window("01:30", "02:30")

    assert not is_open(night, "Europe/Berlin", at("2026-10-25 02:59"))
    assert opens_in(night, "Europe/Berlin", at("2026-10-25 02:59")) == 60


@given(st.lists(windows, min_size=1, max_size=2), st.sampled_from(ZONES), instants)
def test_it_opens_when_it_is_said_to_and_not_earlier(hours, zone, now):
    wait = opens_in(hours, zone, now)

    assert is_open(hours, zone, now + wait)
    assert (wait == 0) == is_open(hours, zone, now)
    # Clocks are turned, and windows begin, at whole minutes: a look at each, of an hour of them, is enough.
    until = now + wait
    minutes = range(int(max(now, until - 3600)) // 60 * 60 + 60, int(until), 60)
    assert not any(is_open(hours, zone, minute) for minute in minutes)


@given(st.lists(windows, min_size=1, max_size=3), instants)
def test_where_no_clock_is_turned_nobody_waits_longer_than_the_longest_closed_stretch(hours, now):
    assert opens_in(hours, "UTC", now) <= longest_closed(hours)


@given(st.lists(windows, min_size=1, max_size=3))
def test_somebody_waits_for_the_whole_of_the_longest_closed_stretch(hours):
    ends = {day * DAY + clock(each.closes) for each in hours for day in range(7)}

    assert max(opens_in(hours, "UTC", end) for end in ends) == longest_closed(hours)


@given(windows, st.sampled_from(ZONES), instants)
def test_a_window_goes_by_what_the_wall_clock_shows(hours, zone, now):
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    shown = f"{local.hour:02}:{local.minute:02}"
    today, yesterday = WEEK[local.weekday()], WEEK[local.weekday() - 1]
    over_night = hours.closes < hours.opens
    evening = today in hours.days and hours.opens <= shown and (over_night or shown < hours.closes)
    morning = over_night and yesterday in hours.days and shown < hours.closes

    assert is_open([hours], zone, now) == (evening or morning)


@given(windows)
def test_a_window_is_read_as_it_was_written(hours):
    assert loads(dumps(hours), Window, "w.yaml") == hours
    assert Window.model_validate(hours.model_dump(mode="json")) == hours


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{from: 5:00, to: 06:00}", "from: expected a time of day such as 01:00 or 23:30"),
        ("{from: 01:00, to: 25:00}", "to: expected a time of day"),
        ("{from: 01:00}", "to: missing key"),
        ("{from: 01:00, to: 01:00}", "to: it has no length; the whole day is from 00:00 to 24:00"),
        ("{from: 24:00, to: 01:00}", "to: it has no length"),
        ("{from: 01:00, to: 02:00, days: []}", "days: "),
        ("{from: 01:00, to: 02:00, days: [monday]}", r"days\[0\]: expected 'mon', 'tue'"),
        ("{start: 01:00, to: 02:00}", "start: unknown key; expected one of days, from, to"),
    ],
)
def test_what_is_no_window_is_refused(text, words):
    with pytest.raises(DocumentError, match=words):
        loads(text, Window, "w.yaml")

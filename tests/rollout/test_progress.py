import pytest
from _course import BEGAN, course
from hypothesis import given
from hypothesis import strategies as st

from slmops.rollout.progress import rate, rest, sent, share


def test_the_rest_is_foretold_from_those_that_went_all_the_way():
    whole = course(1000)
    lasts = whole.entry.changed - BEGAN

    for until in (300.0, 900.0, 1500.0):
        made = course(1000, until=until)
        left = rest(made.entry, made.lines, BEGAN + until)
        assert left is not None
        assert 0.7 < left / (lasts - until) < 1.3


def test_nothing_is_foretold_before_anybody_went_all_the_way_or_after_the_end():
    early, ended = course(30, until=5), course(30)

    assert rest(early.entry, early.lines, BEGAN + 5) is None
    assert rest(ended.entry, ended.lines, ended.entry.changed) is None


@given(st.integers(1, 60), st.floats(0, 400), st.integers(0, 9))
def test_bytes_their_rate_and_shares_stay_in_bounds(devices, until, seed):
    made = course(devices, until=until, seed=seed)

    assert 0 <= rate(made.lines, BEGAN + until) <= max(sent(made.lines), 0)
    assert all(0 <= share(line) <= 1 for line in made.lines)


def test_the_bytes_of_a_device_under_way_count_as_far_as_they_came():
    made = course(1, until=4)

    assert sent(made.lines) == made.lines[0].doing["done"] > 0
    assert rate(made.lines, BEGAN + 4) == pytest.approx(3_000_000)

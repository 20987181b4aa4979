"""Many requests as the few numbers worth showing."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.telemetry.events import RequestFinished
from slmops.telemetry.summary import Summary, merge, quantile, summarise

times = st.floats(min_value=1e-4, max_value=1e4)
events = st.builds(
    RequestFinished,
    time=st.just(0.0),
    release=st.just("demo:1.0.0"),
    digest=st.just(""),
    status=st.sampled_from([200, 400, 429, 499, 500, 503]),
    prompt_tokens=st.integers(0, 1000),
    output_tokens=st.integers(0, 1000),
    first_token_seconds=st.none() | times,
    seconds=times,
)
lists = st.lists(events, max_size=30)


def answered(seconds, first=None, tokens=1):
    return RequestFinished(0.0, "demo:1.0.0", "", 200, 5, tokens, first, seconds)


def same(one, other):
    exact = {"later_seconds": 0.0}
    return dataclasses.replace(one, **exact) == dataclasses.replace(other, **exact) and math.isclose(
        one.later_seconds, other.later_seconds, rel_tol=1e-9, abs_tol=1e-9
    )


@given(lists, lists)
def test_summaries_of_parts_merge_to_the_summary_of_the_whole(one, other):
    assert same(merge(summarise(one), summarise(other)), summarise(one + other))


@given(lists, lists, lists)
def test_merging_is_associative_and_commutative(a, b, c):
    one, two, three = summarise(a), summarise(b), summarise(c)
    assert same(merge(merge(one, two), three), merge(one, merge(two, three)))
    assert same(merge(one, two), merge(two, one))
    assert merge(one, Summary()) == one


@given(st.lists(times, min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_within_one_percent(seconds, share):
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    assert quantile(summarise(map(answered, seconds)).seconds, share) == pytest.approx(true, rel=0.0101)


def test_nothing_measured_is_said_as_nothing():
    nothing = summarise([])
    assert nothing == Summary()
    assert quantile(nothing.seconds, 0.5) is None
    assert nothing.tokens_per_second is None


def test_refused_requests_do_not_make_the_device_look_fast():
    refused = dataclasses.replace(answered(0.001), status=429)
    summary = summarise([answered(2.0), *[refused] * 99])
    assert quantile(summary.seconds, 0.5) == pytest.approx(2.0, rel=0.0101)
    assert (summary.requests, summary.refused, summary.errors) == (100, 99, 0)


def test_speed_is_taken_after_the_first_token():
    summary = summarise([answered(3.0, first=1.0, tokens=21), answered(1.0, first=1.0, tokens=1)])
    assert summary.tokens_per_second == pytest.approx(10.0)

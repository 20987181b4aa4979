"""What is judged of a slot beyond right answers."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.device import bounds
from slmops.device.bounds import Bounds, Measured
from slmops.errors import DeviceError

WHAT = [bounds.SPEED, bounds.LATENCY, bounds.MEMORY, bounds.ERRORS, bounds.LOGPROB]
ALL = Bounds(
    least_speed_of_before=0.6,
    least_speed_of_promise=0.25,
    most_first_token_of_before=2.5,
    most_memory_of_promise=1.25,
    most_errors=0.01,
)
amounts = st.floats(0, 1e6)
maybe = st.none() | amounts | st.just(math.nan) | st.just(math.inf)
measurements = st.builds(Measured, *[maybe] * 7)
promises = st.builds(Measured, *[st.none() | st.floats(1e-6, 1e6)] * 7)
asked = st.just(ALL) | st.builds(
    Bounds,
    tolerance=st.floats(0.001, 10),
    least_speed_of_before=st.none() | st.floats(0.01, 2),
    most_errors=st.none() | st.floats(0, 1),
    most_first_token_of_before=st.none() | st.floats(0.5, 5),
)


def judged(seen, given_bounds, promise, before, wanted=WHAT):
    return bounds.judge(seen, given_bounds, promise, before, wanted=wanted)


def worse(seen, what, by):
    if what == bounds.SPEED:
        seen = worse(seen, "answers_per_second", by)
    value = getattr(seen, what)
    if value is None or math.isnan(value):
        return seen
    return replace(seen, **{what: value / (1 + by) if what.endswith("per_second") else value * (1 + by) + by})


@given(measurements, asked, st.tuples(promises, promises), st.sampled_from(WHAT), st.floats(0, 100))
def test_a_worse_number_never_turns_a_fail_into_a_pass(seen, given_bounds, against, what, by):
    if bounds.outcome(judged(seen, given_bounds, *against)) == bounds.FAIL:
        again = judged(worse(seen, what, by), given_bounds, *against)
        assert bounds.outcome(again) == bounds.FAIL


@given(measurements, asked, promises, promises, st.sampled_from(WHAT))
def test_a_number_that_was_wanted_and_is_missing_never_passes(seen, given_bounds, promise, before, what):
    both = [what, *(["answers_per_second"] if what == bounds.SPEED else [])]
    for missing in (None, math.nan):
        rows = judged(replace(seen, **dict.fromkeys(both, missing)), given_bounds, promise, before)
        assert bounds.PASS not in {row.outcome for row in rows if row.what == what}


@given(measurements, asked, promises, promises, st.sets(st.sampled_from(WHAT)))
def test_what_cannot_be_measured_at_all_is_not_judged(seen, given_bounds, promise, before, able):
    rows = judged(seen, given_bounds, promise, before, able)

    assert {row.what for row in rows if row.outcome != bounds.UNJUDGED} <= able
    assert all(row.why for row in rows if row.outcome in (bounds.UNJUDGED, bounds.INCONCLUSIVE))


@given(measurements, asked)
def test_a_bound_with_neither_promise_nor_version_before_is_not_judged(seen, given_bounds):
    rows = judged(seen, given_bounds, Measured(), Measured())

    assert {row.what for row in rows if row.outcome != bounds.UNJUDGED} <= {bounds.LOGPROB, bounds.ERRORS}


@given(amounts, amounts, asked, promises)
def test_a_slower_second_try_changes_nothing_and_a_farther_text_is_never_forgiven(one, other, asks, before):
    slow, fast = sorted([one, other])
    tried = bounds.best(Measured(tokens_per_second=fast, logprob=slow), Measured(tokens_per_second=slow))

    assert (tried.tokens_per_second, tried.logprob) == (fast, slow)
    assert bounds.best(tried, Measured(logprob=fast + 1)).logprob == fast + 1
    once = Measured(tokens_per_second=fast, logprob=slow)
    assert judged(tried, asks, Measured(), before) == judged(once, asks, Measured(), before)


def test_half_as_fast_as_the_version_before_fails_and_four_fifths_do_not():
    before = Measured(time_to_first_token=0.1, tokens_per_second=10.0)
    outcomes = []
    for speed in (5.0, 8.0):
        seen = Measured(answers_per_second=speed, answer_tokens=12.0)
        outcomes.append(bounds.outcome(judged(seen, ALL, Measured(), before, [bounds.SPEED])))

    assert outcomes == [bounds.FAIL, bounds.PASS]


def test_of_the_smallest_models_what_the_server_takes_is_no_fault_of_theirs():
    before = Measured(tokens_per_second=8000.0, time_to_first_token=0.002)
    seen = Measured(answers_per_second=500.0, answer_tokens=12.0, time_to_first_token=0.03)

    assert (
        bounds.outcome(judged(seen, ALL, Measured(), before, [bounds.SPEED, bounds.LATENCY])) == bounds.PASS
    )


def test_an_infinite_distance_fails_and_is_told_as_json_can():
    (row, *_) = judged(Measured(logprob=math.inf), Bounds(), Measured(), Measured())

    assert (row.outcome, row.value) == (bounds.FAIL, None)


def test_what_a_newer_operator_asks_besides_is_ignored_and_an_older_one_asks_nothing():
    assert Bounds.of({"tolerance": 0.2, "warmth": 40}) == Bounds(tolerance=0.2)
    assert Bounds.of(None) == Bounds.of({}) == Bounds()
    assert {each.name for each in fields(Bounds)} >= set(Bounds.of(None).__dict__)


@pytest.mark.parametrize(
    "said",
    [
        5, {"tolerance": "0.1"}, {"tolerance": None}, {"watch": None}, {"watch": math.inf}, {"watch": -1},
        {"most_errors": math.nan}, {"most_errors": True}, {"references": "maybe"}, {"measure_before": 1},
    ],
)  # fmt: skip
def test_what_is_no_bound_is_refused(said):
    with pytest.raises(DeviceError, match="gate: "):
        Bounds.of(said)


@given(measurements, asked, promises, promises)
def test_what_is_told_says_what_was_found_in_few_digits(seen, given_bounds, promise, before):
    for row in judged(seen, given_bounds, promise, before):
        said = bounds.told_row(row)
        assert said.keys() >= {"what", "against", "outcome"}
        assert None not in said.values()
        assert said.get("value") == (row.value and pytest.approx(row.value, rel=1e-5))
    assert bounds.told(seen).keys() <= {each.name for each in fields(Measured)}

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.fleet.strategy import Strategy
from slmops.rollout.assignment import BAD, ENDS, GOOD, State
from slmops.rollout.verdict import Verdict, judge, too_sick

shares = st.integers(0, 12) | st.integers(0, 100).map(lambda percent: f"{percent}%")
strategies = st.builds(
    lambda failed, lost: Strategy(max_failures=failed, max_unreachable=lost), shares, shares
)
states = st.lists(st.sampled_from(State), max_size=20)
RANK = {Verdict.FAIL: 0, Verdict.INCONCLUSIVE: 1, Verdict.PASS: 2}
STRICT = Strategy(max_failures=0, max_unreachable=0)


@pytest.mark.parametrize("state", sorted(GOOD, key=lambda state: state.value))
def test_a_wave_that_is_all_good_passes(state):
    assert judge([state] * 3, STRICT) is Verdict.PASS


@pytest.mark.parametrize("state", sorted(BAD, key=lambda state: state.value))
def test_one_bad_device_more_than_is_accepted_fails_the_wave(state):
    one = Strategy(max_failures=1)

    assert judge([State.COMMITTED, state], one) is Verdict.PASS
    assert judge([State.COMMITTED, state, state], one) is Verdict.FAIL


def test_one_lost_device_more_than_is_accepted_leaves_the_wave_unknown():
    one = Strategy(max_unreachable=1)

    assert judge([State.COMMITTED, State.LOST], one) is Verdict.PASS
    assert judge([State.COMMITTED, State.LOST, State.LOST], one) is Verdict.INCONCLUSIVE


def test_failed_and_lost_devices_have_budgets_of_their_own():
    both = Strategy(max_failures=1, max_unreachable=1)

    assert judge([State.COMMITTED, State.FAILED, State.LOST], both) is Verdict.PASS


def test_a_share_of_a_small_wave_is_rounded_down():
    assert judge([State.COMMITTED] * 8 + [State.FAILED], Strategy(max_failures="10%")) is Verdict.FAIL


@given(strategies)
def test_an_empty_wave_has_shown_nothing(strategy):
    assert judge([], strategy) is Verdict.INCONCLUSIVE


@given(states, st.sampled_from(sorted(set(State) - ENDS, key=lambda state: state.value)), strategies)
def test_silence_is_never_health(heard, silent, strategy):
    assert judge([*heard, silent], strategy) is not Verdict.PASS


@given(states, strategies)
def test_a_wave_of_which_no_device_is_good_does_not_pass(heard, strategy):
    assume(not set(heard) & GOOD)

    assert judge(heard, strategy) is not Verdict.PASS


@given(states, st.lists(st.sampled_from(sorted(BAD, key=lambda state: state.value))), strategies)
def test_more_bad_devices_never_turn_a_fail_into_a_pass(heard, more, strategy):
    failed = judge(heard, strategy) is Verdict.FAIL

    assert not failed or judge([*heard, *more], strategy) is Verdict.FAIL


@given(states, st.sampled_from(sorted(GOOD, key=lambda state: state.value)), strategies)
def test_a_device_that_turns_out_worse_never_makes_the_verdict_better(others, good, strategy):
    verdict = judge([*others, good], strategy)

    for worse in (State.LOST, State.TRIAL, *BAD):
        assert RANK[judge([*others, worse], strategy)] <= RANK[verdict]


@given(states, strategies)
def test_a_wave_too_sick_to_go_on_never_passes_and_a_failed_one_is_too_sick(heard, strategy):
    assert not (too_sick(heard, strategy) and judge(heard, strategy) is Verdict.PASS)
    assert too_sick(heard, strategy) or judge(heard, strategy) is not Verdict.FAIL

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.fleet.strategy import Strategy
from slmops.rollout.assignment import BAD, ENDS, GOOD, UNKNOWN, State
from slmops.rollout.verdict import Verdict, crossed, judge
from slmops.rollout.waves import Wave

shares = st.integers(0, 12) | st.integers(0, 100).map(lambda percent: f"{percent}%")
strategies = st.builds(
    lambda failed, lost, executed: Strategy(max_failures=failed, max_unreachable=lost, min_executed=executed),
    shares,
    shares,
    st.integers(1, 8),
)
states = st.lists(st.sampled_from(State), max_size=20)
RANK = {Verdict.FAIL: 0, Verdict.INCONCLUSIVE: 1, Verdict.PASS: 2}
STRICT = Strategy(max_failures=0, max_unreachable=0)
LETTERS = {
    "+": State.COMMITTED,
    "-": State.WENT_BACK,
    "?": State.LOST,
    "~": State.UNPROVED,
    "s": State.SKIPPED,
    "t": State.TRIAL,
    "w": State.WAITING,
}


def named(kind):
    return sorted(kind, key=lambda state: state.value)


def wave(strategy):
    return Wave((), strategy.soak, strategy.advance, strategy.max_failures, "a wave")


def judged(said, strategy):
    return judge(said, strategy, wave(strategy))


def over(said, strategy):
    return crossed(said, strategy, wave(strategy))


@pytest.mark.parametrize("state", named(GOOD))
def test_a_wave_that_is_all_good_passes(state):
    assert judged([state] * 3, STRICT) is Verdict.PASS


@pytest.mark.parametrize("state", named(BAD))
def test_one_bad_device_more_than_is_accepted_fails_the_wave(state):
    one = Strategy(max_failures=1)

    assert judged([State.COMMITTED, state], one) is Verdict.PASS
    assert judged([State.COMMITTED, state, state], one) is Verdict.FAIL


@pytest.mark.parametrize("state", named(UNKNOWN))
def test_one_unknown_device_more_than_is_accepted_leaves_the_wave_unknown(state):
    one = Strategy(max_unreachable=1)

    assert judged([State.COMMITTED, state], one) is Verdict.PASS
    assert judged([State.COMMITTED, state, state], one) is Verdict.INCONCLUSIVE


def test_failed_and_lost_devices_have_budgets_of_their_own():
    both = Strategy(max_failures=1, max_unreachable=1)

    assert judged([State.COMMITTED, State.FAILED, State.LOST], both) is Verdict.PASS


def test_a_wave_goes_by_its_own_accepted_failures():
    lax = Wave((), 0, "auto", 1, "a wave")

    assert judge([State.COMMITTED, State.FAILED], STRICT, lax) is Verdict.PASS
    assert not crossed([State.WAITING, State.FAILED], STRICT, lax)


@pytest.mark.parametrize(
    ("failures", "ended", "stops", "verdict"),
    [
        # A wave of one.
        (0, "+", False, "pass"),
        (0, "-", True, "fail"),
        (1, "-", False, "inconclusive"),  # as many as are accepted, yet nothing good was seen
        ("10%", "-", True, "fail"),
        ("100%", "-", False, "inconclusive"),
        (0, "?", True, "inconclusive"),
        (0, "~", True, "inconclusive"),
        (0, "s", False, "inconclusive"),
        # A number counts from the first, whoever is still to come.
        (0, "-wwwwwwwww", True, "fail"),
        (1, "-wwwwwwwww", False, "inconclusive"),
        (1, "--wwwwwwww", True, "fail"),
        # A share, exactly at it and one over.
        ("10%", "-+++++++++", False, "pass"),
        ("10%", "--++++++++", True, "fail"),
        ("20%", "--++++++++", False, "pass"),
        # It is rounded down: a tenth of nine is none.
        ("10%", "-++++++++", True, "fail"),
        ("11%", "-++++++++", True, "fail"),
        ("12%", "-++++++++", False, "pass"),
        ("33%", "-++", True, "fail"),
        ("34%", "-++", False, "pass"),
        # It is of those that ended good or bad.
        ("10%", "-++++++++s", True, "fail"),
        ("25%", "-+++s", False, "pass"),
        # Two have ended: too few, and eight may yet end well.
        ("20%", "--wwwwwwww", False, "inconclusive"),
        # The third one is enough.
        ("20%", "--+wwwwwww", True, "fail"),
        ("20%", "-++wwwwwww", True, "fail"),
        ("40%", "-++wwwwwww", False, "inconclusive"),
        # Few have ended, but even if all others end well it is too many.
        ("10%", "--wwwwwwww", True, "fail"),
        ("50%", "--w", True, "fail"),
        ("50%", "-w", False, "inconclusive"),
        # Few have ended, and nobody is to come.
        ("40%", "-+", True, "fail"),
        ("50%", "-+", False, "pass"),
        # Unknown ones: a tenth of the wave is accepted, by number at once, and they are not executed.
        (0, "?+++++++++", False, "pass"),
        (0, "?~++++++++", True, "inconclusive"),
        (0, "?~wwwwwwww", True, "inconclusive"),
        (0, "?++++++++", True, "inconclusive"),
        ("10%", "?-++++++++", True, "fail"),
        # A fail is known, whatever else is not.
        (0, "-?????????", True, "fail"),
        # Somebody is still under way.
        (0, "+++++++++t", False, "inconclusive"),
        (0, "sssss", False, "inconclusive"),
        (0, "sssss+", False, "pass"),
    ],
)
def test_a_bound_exactly_met_is_kept_and_one_more_crosses_it(failures, ended, stops, verdict):
    strategy = Strategy(max_failures=failures, max_unreachable="10%", min_executed=3)
    said = [LETTERS[letter] for letter in ended]

    assert (over(said, strategy), judged(said, strategy).value) == (stops, verdict)


@given(strategies)
def test_an_empty_wave_has_shown_nothing(strategy):
    assert judged([], strategy) is Verdict.INCONCLUSIVE


@given(states, st.sampled_from(named(set(State) - ENDS)), strategies)
def test_silence_is_never_health(heard, silent, strategy):
    assert judged([*heard, silent], strategy) is not Verdict.PASS


@given(states, strategies)
def test_a_wave_of_which_no_device_is_good_does_not_pass(heard, strategy):
    assume(not set(heard) & GOOD)

    assert judged(heard, strategy) is not Verdict.PASS


@given(states, st.lists(st.sampled_from(named(BAD))), strategies)
def test_more_bad_devices_never_turn_a_fail_into_a_pass(heard, more, strategy):
    failed = judged(heard, strategy) is Verdict.FAIL

    assert not failed or judged([*heard, *more], strategy) is Verdict.FAIL


@given(st.lists(st.sampled_from(named(ENDS)), max_size=20), st.sampled_from(named(GOOD)), strategies)
def test_a_device_that_ends_worse_never_makes_the_verdict_of_its_wave_better(others, good, strategy):
    verdict = judged([*others, good], strategy)

    for worse in (*UNKNOWN, *BAD):
        assert RANK[judged([*others, worse], strategy)] <= RANK[verdict]


@given(states, st.sampled_from(named(GOOD)), strategies)
def test_no_wave_passes_because_a_device_is_not_good(others, good, strategy):
    passes = judged([*others, good], strategy) is Verdict.PASS

    assert passes or Verdict.PASS not in {judged([*others, state], strategy) for state in State}


@given(states, strategies)
def test_a_wave_over_a_bound_never_passes_and_a_failed_one_is_over_it(heard, strategy):
    assert not (over(heard, strategy) and judged(heard, strategy) is Verdict.PASS)
    assert over(heard, strategy) or judged(heard, strategy) is not Verdict.FAIL


few = st.lists(st.sampled_from([*named(BAD), State.COMMITTED, State.LOST]), max_size=6)
to_come = st.lists(st.sampled_from(named(set(State) - ENDS)), max_size=10)
lenient = st.builds(
    lambda failed, lost: Strategy(max_failures=failed, max_unreachable=lost, min_executed=7), shares, shares
)


@given(few, to_come, lenient)
def test_before_enough_have_ended_a_bound_is_crossed_when_even_the_best_end_is_over_it(heard, more, strategy):
    best = [State.COMMITTED] * len(more)

    assert over([*heard, *more], strategy) == over([*heard, *best], strategy)


@given(few, to_come, lenient, st.data())
def test_what_was_certain_before_enough_had_ended_is_so_at_every_end(heard, more, strategy, data):
    ended = [data.draw(st.sampled_from(named(ENDS))) for _ in more]

    assert over([*heard, *ended], strategy) or not over([*heard, *more], strategy)


@given(states, st.integers(0, 5), st.lists(st.sampled_from(named(ENDS)), max_size=20))
def test_a_number_of_failures_stays_crossed_whatever_comes(heard, most, more):
    strategy = Strategy(max_failures=most, max_unreachable="100%")

    assert over([*heard, *more], strategy) or not over(heard, strategy)

"""The learning rate over a run, where it is validated, and when it ends early."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.train.schedule import LOWEST, Best, is_due, rate

runs = st.integers(1, 400)


@given(runs, st.floats(0, 1))
def test_the_rate_rises_then_falls_and_is_never_zero(steps, warm_up):
    rates = [rate(step, steps, 1.0, warm_up) for step in range(1, steps + 1)]
    top = rates.index(max(rates))

    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < min(rates) <= max(rates) <= 1.0


def test_the_rate_ends_at_a_tenth_of_its_highest():
    assert rate(5, 100, 2e-3, 0.05) == 2e-3
    assert rate(100, 100, 2e-3, 0.05) == pytest.approx(2e-3 * LOWEST)


@given(runs, st.integers(1, 30))
def test_validations_lie_evenly_and_the_last_step_has_one(steps, times):
    due = [step for step in range(1, steps + 1) if is_due(step, steps, times)]
    gaps = [after - before for before, after in zip([0, *due], due, strict=False)]

    assert len(due) == min(steps, times)
    assert due[-1] == steps
    assert max(gaps) - min(gaps) <= 1


@given(st.lists(st.floats(0, 10) | st.just(math.nan), min_size=1))
def test_the_best_is_the_first_of_the_lowest(losses):
    best = Best()
    for step, loss in enumerate(losses):
        best = best.then(step, loss)
    numbers = [loss for loss in losses if not math.isnan(loss)]

    if numbers:
        assert best.loss == min(numbers)
        assert losses[best.step] == min(numbers)
        assert best.since == len(losses) - 1 - best.step
    assert best.is_enough(len(losses) + 1) is False


def test_a_run_ends_early_only_where_that_is_asked_and_only_after_so_many_validations():
    best = Best().then(0, 2.0).then(1, 1.0).then(2, 1.5).then(3, 1.0)

    assert best.is_enough(2)
    assert not best.is_enough(3)
    assert not best.is_enough(None)

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.train.course import MOST, Run, lay_out_course, smoothed, thin

LOSSES = st.floats(0, 20) | st.sampled_from([math.nan, math.inf, 0.0, 1e-9, 1e6])


def run(losses, *, validations=(), best=None, parts=None):
    steps = np.arange(1, len(losses) + 1, dtype=float)
    found = np.array(losses, dtype=float)
    rates = 1e-3 * np.minimum(steps / 10, 1)
    return Run(steps, 4096 * steps, found, rates, parts or {}, tuple(validations), best)


def falling(steps):
    here = np.arange(steps)
    return 2 + 7 * np.exp(-9 * here / steps) + 0.3 * np.sin(here * 1.7)


@pytest.mark.parametrize("steps", [601, 5_000, 100_003])
def test_thinning_keeps_the_first_the_last_the_least_and_what_it_is_told_to_keep(steps):
    losses = falling(steps)
    kept = thin(losses, [steps // 3])

    assert {0, steps - 1, steps // 3, int(losses.argmin()), int(losses.argmax())} <= set(kept)
    assert kept == sorted(set(kept))
    assert len(kept) <= MOST
    assert kept == thin(losses, [steps // 3])


@given(st.lists(LOSSES, max_size=60), st.integers(10, 40))
def test_thinning_keeps_numbers_only_and_never_more_than_it_may(losses, most):
    values = np.array(losses, dtype=float)
    kept = thin(values, most=most)
    finite = values[np.isfinite(values)]

    assert len(kept) == len(finite) if len(finite) <= most else len(kept) <= most
    assert np.isfinite(values[kept]).all()
    if len(finite):
        assert values[kept].min() == finite.min()
        assert values[kept].max() == finite.max()


@given(st.lists(LOSSES, max_size=200))
def test_what_is_smoothed_stays_between_the_least_and_the_greatest(losses):
    values = np.array(losses, dtype=float)
    found, finite = smoothed(values), values[np.isfinite(values)]

    known = found[np.isfinite(found)]
    assert len(found) == len(values)
    if len(known):
        assert known.min() >= finite.min() - 1e-6 * max(finite.max(), 1)
        assert known.max() <= finite.max() + 1e-6 * max(finite.max(), 1)


def test_smoothing_does_not_lower_the_first_loss():
    losses = falling(400)

    assert smoothed(losses)[0] == losses[0]
    assert np.abs(np.diff(smoothed(losses))).max() < np.abs(np.diff(losses)).max()


@given(
    st.lists(LOSSES, max_size=50),
    st.lists(st.tuples(st.integers(0, 60), LOSSES), max_size=6),
    st.sampled_from([(880, 400), (360, 360)]),
)
def test_whatever_is_drawn_lies_inside_its_frame(losses, validations, size):
    best = validations[-1][0] if validations else None
    told = run(losses, validations=validations, best=best, parts={"a": np.array(losses, dtype=float) / 3})
    drawn = lay_out_course(told, width=size[0], height=size[1])

    dots = [(dot.x, dot.y) for dot in drawn.validations]
    for frame, places in (
        (drawn.frame, [*drawn.raw, *drawn.smooth, *drawn.parts["a"], *dots]),
        (drawn.strip, drawn.rates),
    ):
        assert all(frame.left <= x <= frame.right and frame.top <= y <= frame.bottom for x, y in places)
    assert len(drawn.raw) == sum(map(math.isfinite, losses))
    assert len(drawn.validations) == sum(math.isfinite(loss) for _, loss in validations)
    for ticks, low, high in (
        (drawn.tokens, drawn.frame.left, drawn.frame.right),
        (drawn.losses, drawn.frame.top, drawn.frame.bottom),
    ):
        assert all(low <= tick.at <= high for tick in ticks)
        assert len({tick.text for tick in ticks}) == len(ticks)
        assert len(ticks) <= 14


@given(st.lists(st.floats(0.01, 20), min_size=2, max_size=50))
def test_a_larger_loss_is_never_drawn_below_a_lesser(losses):
    drawn = lay_out_course(run(losses), width=880, height=400)

    by_loss = [y for _, (_, y) in sorted(zip(losses, drawn.raw, strict=True), key=lambda pair: pair[0])]
    assert by_loss == sorted(by_loss, reverse=True)
    assert [x for x, _ in drawn.raw] == sorted(x for x, _ in drawn.raw)


def test_the_best_moment_is_a_validation_and_says_its_step():
    told = run(falling(100), validations=[(0, 9.5), (50, 2.5), (100, 2.9)], best=50)
    drawn = lay_out_course(told, width=880, height=400)

    assert drawn.best == drawn.validations[1]
    assert drawn.label.text == "best: 2.5 at step 50"
    assert drawn.frame.holds(drawn.label.box)
    middle = (drawn.frame.left + drawn.frame.right) / 2
    assert drawn.validations[0].x == drawn.frame.left
    assert drawn.best.x == pytest.approx(middle)


def test_a_run_without_a_validation_has_no_best_moment():
    drawn = lay_out_course(run(falling(20), best=7), width=880, height=400)

    assert drawn.best is None
    assert drawn.label is None


def test_far_apart_losses_are_drawn_on_a_logarithmic_axis():
    near = lay_out_course(run([3.0, 2.0, 1.0]), width=880, height=400)
    far = lay_out_course(run([3.0, 0.3, 0.03]), width=880, height=400)

    gaps = [round(far.raw[place][1] - far.raw[place + 1][1]) for place in range(2)]
    assert gaps[0] == gaps[1]
    assert {"1", "0.1"} <= {tick.text for tick in far.losses}
    assert {"1", "2", "3"} <= {tick.text for tick in near.losses}


def test_a_long_run_is_drawn_by_few_points_and_still_shows_its_best_step():
    losses = falling(50_000)
    told = replace(
        run(losses, validations=[(20_000, 3.0)], best=20_000), parts={"a": losses, "b": losses / 2}
    )
    drawn = lay_out_course(told, width=880, height=400)

    for places in (drawn.raw, drawn.smooth, drawn.rates, *drawn.parts.values()):
        assert 2 <= len(places) <= MOST
    assert drawn.best.x in {x for x, _ in drawn.raw}

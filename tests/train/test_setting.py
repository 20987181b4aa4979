"""How a training goes, as a recipe says it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slmops.train.setting import Setting, share_of_rate


def test_a_run_is_three_epochs_long_unless_something_is_said():
    assert Setting().steps_in(10_000, 4) == 12
    assert Setting(epochs=5).steps_in(10_000, 4) == 20
    assert Setting(steps=7).steps_in(10_000, 4) == 7


def test_a_run_of_so_many_tokens_ends_with_the_step_that_reaches_them():
    assert Setting(tokens=10_000).steps_in(10_000, 4) == 4
    assert Setting(tokens=10_001).steps_in(10_000, 4) == 5
    assert Setting(tokens=1).steps_in(10_000, 4) == 1


def test_two_lengths_of_a_run_are_refused():
    with pytest.raises(
        ValidationError, match="at most one of epochs, steps and tokens, got epochs and steps"
    ):
        Setting(epochs=1, steps=1)


def test_what_only_takes_memory_or_time_decides_nothing():
    assert Setting(part_tokens=7, checkpoint_every=3).decides() == Setting().decides()
    assert Setting(epochs=3).decides() == Setting().decides()
    assert Setting(seed=1).decides() != Setting().decides()
    assert Setting(steps=3).decides() != Setting().decides()


@given(st.floats(0, 20), st.floats(0, 20))
def test_the_nearer_a_student_is_to_its_teacher_the_smaller_its_steps(one, other):
    near, far = sorted((one, other))

    assert 0 < share_of_rate(near) <= share_of_rate(far) <= 1


@given(st.integers(1_000, 10**10), st.integers(1_000, 10**10))
def test_a_larger_model_never_gets_a_higher_rate_and_what_is_said_stays(one, other):
    small, large = sorted((one, other))

    assert Setting().with_rate(large).rate <= Setting().with_rate(small).rate <= 0.01
    assert Setting(rate=0.5).with_rate(large, share=0.1).rate == 0.5

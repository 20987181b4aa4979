"""How a training goes, as a recipe says it."""

import pytest
from pydantic import ValidationError

from slmops.train.setting import Setting


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

"""Choosing the next token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.sample import choose
from slmops.daemon.sampling import Sampling
from slmops.errors import ModelError

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(
    lambda values: np.array(values, np.float32)
)


def draws(values, sampling, count=200):
    chance = np.random.default_rng(sampling.seed)
    return [choose(np.array(values, np.float32), sampling, chance) for _ in range(count)]


@given(logits)
def test_temperature_zero_takes_the_largest_and_the_first_of_equals(values):
    assert draws(values, Sampling(), 1) == [int(np.argmax(values))]


@given(logits, st.integers(1, 40), st.integers(0, 2**64 - 1))
def test_nothing_outside_the_top_k_is_drawn(values, k, seed):
    least = np.sort(values)[::-1][: min(k, len(values))][-1]
    assert all(values[drawn] >= least for drawn in draws(values, Sampling(1.0, top_k=k, seed=seed), 20))


@given(logits, st.floats(0.01, 1.0), st.integers(0, 2**64 - 1))
def test_nothing_outside_the_top_p_is_drawn(values, p, seed):
    weights = np.exp(values.astype(np.float64) - values.max())
    weights /= weights.sum()
    for drawn in draws(values, Sampling(1.0, top_p=p, seed=seed), 20):
        assert weights[values > values[drawn]].sum() <= p + 1e-9


@given(logits, st.floats(0.1, 2.0), st.integers(0, 2**64 - 1))
def test_the_same_seed_draws_the_same_tokens(values, temperature, seed):
    sampling = Sampling(temperature, seed=seed)
    assert draws(values, sampling, 10) == draws(values, sampling, 10)


@pytest.mark.parametrize("sampling", [Sampling(1.0, seed=1), Sampling(1.0, top_k=3, top_p=0.999999, seed=1)])
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling):
    found = np.bincount(draws(np.log([0.6, 0.3, 0.1]), sampling, 4000), minlength=3) / 4000
    assert found == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


@pytest.mark.parametrize("broken", [[np.nan, 1.0], [1.0, np.inf], [-np.inf, -np.inf]])
def test_logits_that_are_not_numbers_are_an_error(broken):
    with pytest.raises(ModelError, match="not numbers"):
        draws(broken, Sampling(), 1)

"""Choosing the next token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.sample import bend, choose
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


@given(logits, st.floats(0.01, 1.0), st.integers(0, 2**64 - 1))
def test_nothing_less_likely_than_min_p_of_the_likeliest_is_drawn(values, p, seed):
    weights = np.exp(values.astype(np.float64) - values.max())
    assert all(
        weights[drawn] >= p * (1 - 1e-6) for drawn in draws(values, Sampling(1.0, min_p=p, seed=seed), 20)
    )


def test_of_many_tokens_those_that_hold_top_p_are_found():
    values = np.random.default_rng(1).normal(0, 1, 5000).astype(np.float32)
    weights = np.exp(values.astype(np.float64))
    order = np.argsort(-weights)
    for p in (0.001, 0.5, 0.99):
        count = int(np.searchsorted(np.cumsum(weights[order]), p * weights.sum())) + 1
        drawn = set(draws(values, Sampling(1.0, top_p=p, seed=1), 300))
        assert drawn <= set(order[:count].tolist())
        assert len(drawn) >= min(count, 100)


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


@given(logits, st.floats(0, 2), st.integers(0, 40), st.integers(0, 2**64 - 1), st.data())
def test_a_token_that_may_not_come_is_never_drawn(values, temperature, k, seed, data):
    allowed = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    masked = values.copy()
    masked[[at for at in range(len(values)) if at not in allowed]] = -np.inf
    sampling = Sampling(temperature, top_k=k, top_p=0.9, min_p=0.01, seed=seed)
    assert set(draws(masked, sampling, 20)) <= allowed


@given(logits, st.data())
def test_penalties_and_biases_change_the_tokens_that_they_name_and_no_others(values, data):
    ids = st.integers(0, len(values) - 1)
    biases = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32)))
    written = data.draw(st.dictionaries(ids, st.integers(1, 5)))
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25, logit_bias=tuple(biases.items()))
    bent = bend(values, sampling, written)
    for at, value in enumerate(values):
        change = biases.get(at, 0.0) - (0.5 * written[at] + 0.25 if at in written else 0.0)
        assert bent[at] == pytest.approx(value + change, abs=1e-3)
        assert bent[at] == value or at in biases or at in written


@given(logits)
def test_a_token_that_is_forbidden_by_a_bias_is_not_the_best(values):
    best = draws(values, Sampling(), 1)[0]
    bent = bend(values, Sampling(logit_bias=((best, -100.0),)), {})
    assert len(values) == 1 or draws(bent, Sampling(), 1) != [best]

"""The mean of adapters is the mean of what they add, whatever their factors look like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from slmops.errors import TrainingError
from slmops.train.adapter import Adapter, Factors, Origin
from slmops.train.adapter_mean import average

SHAPES = {"layers.0.q": (24, 16), "layers.1.up": (12, 40)}
DIGEST = "sha256:" + "0" * 64


def adapter(seed, rank=3, alpha=6.0, *, shapes=None, digest=DIGEST, head=None):
    dice = np.random.default_rng(seed)
    factors = {
        name: Factors(
            dice.standard_normal((rank, inputs)).astype("f4"),
            dice.standard_normal((outputs, rank)).astype("f4"),
        )
        for name, (outputs, inputs) in (shapes or SHAPES).items()
    }
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
    whole = {} if head is None else {"classifier.weight": np.full((2, 3), head, np.float32)}
    return Adapter(config, factors, whole, Origin("base", digest, 10, seed))


def dense(one):
    return {name: one.scaling * factors.b @ factors.a for name, factors in one.factors.items()}


def apart(one, other):
    """Return the largest relative distance of two sets of matrices."""
    return max(np.linalg.norm(one[name] - other[name]) / np.linalg.norm(other[name]) for name in other)


sites = some.lists(
    some.tuples(some.integers(0, 99), some.integers(1, 5), some.floats(0.5, 32), some.integers(1, 1000)),
    min_size=1,
    max_size=4,
    unique_by=lambda site: site[0],
)


@given(sites)
def test_at_full_rank_the_mean_is_the_mean_of_the_dense_matrices(said):
    adapters, samples = [adapter(*site[:3]) for site in said], [site[3] for site in said]
    wanted = {
        name: sum(count * dense(one)[name] for one, count in zip(adapters, samples, strict=True))
        / sum(samples)
        for name in SHAPES
    }
    found = average(adapters, samples)
    assert apart(dense(found.adapter), wanted) < 1e-5
    assert found.overall.cut <= 2.0**-24
    assert found.full_rank <= sum(site[1] for site in said)
    assert found.adapter.origin.samples == sum(samples)


@given(sites, some.randoms(use_true_random=False))
def test_the_order_of_the_sites_does_not_matter(said, dice):
    shuffled = dice.sample(said, len(said))
    means = [average([adapter(*s[:3]) for s in order], [s[3] for s in order]) for order in (said, shuffled)]
    assert apart(dense(means[0].adapter), dense(means[1].adapter)) < 1e-5


@given(some.integers(0, 99), some.integers(1, 5), some.integers(2, 4))
def test_equal_adapters_average_to_themselves_exactly_and_naively(seed, rank, count):
    one = adapter(seed, rank)
    for naive in (False, True):
        found = average([one] * count, [*range(1, count + 1)], naive=naive)
        assert apart(dense(found.adapter), dense(one)) < 1e-5
        assert found.full_rank == rank
        assert found.overall.naive < 1e-6


@given(sites, some.integers(2, 1000))
def test_only_the_shares_of_the_samples_count(said, times):
    adapters, samples = [adapter(*site[:3]) for site in said], [site[3] for site in said]
    scaled = average(adapters, [times * count for count in samples])
    assert apart(dense(scaled.adapter), dense(average(adapters, samples).adapter)) < 1e-5


@given(some.integers(0, 99), some.integers(1, 5))
def test_truncation_keeps_the_best_matrix_of_that_rank_and_says_what_it_loses(seed, rank):
    adapters = [adapter(seed), adapter(seed + 100)]
    whole, found = average(adapters, [1, 3]), average(adapters, [1, 3], rank)
    mean, kept = dense(whole.adapter), dense(found.adapter)
    for name, wanted in mean.items():
        values = np.linalg.svd(wanted)[1]
        lost = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
        assert found.modules[name].cut == pytest.approx(lost, abs=1e-5)
        assert np.linalg.norm(kept[name] - wanted) / np.linalg.norm(wanted) == pytest.approx(lost, abs=1e-5)
    assert found.adapter.rank == rank
    assert found.adapter.scaling == 1


def test_the_naive_mean_is_another_and_its_distance_is_that_of_the_dense_matrices():
    adapters = [adapter(1), adapter(2)]
    found = average(adapters, [1, 1], naive=True)
    exact, naive = dense(average(adapters, [1, 1]).adapter), dense(found.adapter)
    for name, wanted in exact.items():
        distance = np.linalg.norm(naive[name] - wanted) / np.linalg.norm(wanted)
        assert found.modules[name].naive == pytest.approx(distance, rel=1e-4)
    assert found.overall.naive > 0.5


def test_more_rank_never_loses_more():
    cuts = [average([adapter(1), adapter(2)], [1, 1], rank).overall.cut for rank in range(1, 7)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[-1] <= 2.0**-24


def test_what_was_trained_whole_is_averaged_plainly():
    found = average([adapter(1, head=1.0), adapter(2, head=4.0)], [2, 1])
    assert found.adapter.whole["classifier.weight"] == pytest.approx(np.full((2, 3), 2.0))


def test_adapters_that_cancel_leave_an_adapter_of_nothing():
    one = adapter(1)
    opposite = Adapter(
        one.config, {name: Factors(f.a, -f.b) for name, f in one.factors.items()}, {}, one.origin
    )
    found = average([one, opposite], [1, 1])
    assert found.adapter.rank == 1
    assert max(abs(matrix).max() for matrix in dense(found.adapter).values()) < 1e-6


def test_adapters_of_two_models_or_with_other_targets_have_no_mean():
    with pytest.raises(TrainingError, match="belong to two models"):
        average([adapter(1), adapter(2, digest="sha256:" + "1" * 64)], [1, 1])
    with pytest.raises(TrainingError, match=r"layers\.1\.up is in one as \[12, 40\]"):
        average([adapter(1), adapter(2, shapes={"layers.0.q": (24, 16)})], [1, 1])
    with pytest.raises(TrainingError, match=r"layers\.0\.q"):
        average([adapter(1), adapter(2, shapes={**SHAPES, "layers.0.q": (24, 17)})], [1, 1])
    with pytest.raises(TrainingError, match="samples above 0"):
        average([adapter(1), adapter(2)], [1, 0])


def test_a_rank_that_no_mean_has_is_refused():
    with pytest.raises(TrainingError, match=r"rank from 1 to 6, .* got 7"):
        average([adapter(1), adapter(2)], [1, 1], 7)
    with pytest.raises(TrainingError, match="got 0"):
        average([adapter(1), adapter(2)], [1, 1], 0)


def test_factors_of_different_ranks_are_averaged_exactly_alone():
    adapters = [adapter(1, 2), adapter(2, 3, alpha=5.0)]
    assert average(adapters, [1, 1]).overall.naive is None
    with pytest.raises(TrainingError, match="differ in r or alpha"):
        average(adapters, [1, 1], naive=True)

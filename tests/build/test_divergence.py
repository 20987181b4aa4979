"""The arithmetic of loss, and what counts as too much."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slmops.build.divergence import (
    BOUNDS,
    Measurement,
    Tally,
    divergences,
    judge,
    likelihood,
    margin_of_first,
)
from slmops.errors import BuildError

LOGITS = arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32))
IDS = st.lists(st.integers(0, 6), min_size=2, max_size=2)
"""The ids that follow the first two rows; none follows the last."""


def tallied(*told, nbytes=10):
    """Return the measurement of sequences, each given as (source, artifact, following)."""
    tally = Tally()
    for source, artifact, following in told:
        tally.begin(nbytes)
        tally.add(source, artifact, following)
    return tally.measurement()


@given(LOGITS, LOGITS)
def test_divergence_is_never_negative(source, artifact):
    assert (divergences(source, artifact) >= 0).all()


@given(LOGITS, IDS)
def test_nothing_lies_away_from_itself(logits, ids):
    found = tallied((logits, logits, ids))
    assert (found.kl_mean, found.kl_p99, found.kl_error, found.top1) == (0, 0, 0, 1)
    assert (found.perplexity_ratio_low, found.perplexity_ratio, found.perplexity_ratio_high) == (1, 1, 1)
    assert found.perplexity == found.source_perplexity
    assert found.bits_per_byte == found.source_bits_per_byte


@given(LOGITS, LOGITS, st.floats(-30, 30, width=32))
def test_adding_a_constant_to_all_logits_changes_nothing(source, artifact, constant):
    before, after = divergences(source, artifact), divergences(source, artifact + np.float32(constant))
    assert np.allclose(before, after, atol=1e-3)


@given(LOGITS, LOGITS, IDS)
def test_a_summary_lies_where_its_parts_lie(source, artifact, ids):
    found = tallied((source, artifact, ids), (artifact, source, ids))
    assert 0 <= found.top1 <= 1
    assert found.tokens == 6
    assert found.sequences == 2
    assert found.kl_p99 <= max(divergences(source, artifact).max(), divergences(artifact, source).max())
    assert found.perplexity_low <= found.perplexity <= found.perplexity_high
    assert found.perplexity_ratio_low <= found.perplexity_ratio <= found.perplexity_ratio_high


@given(LOGITS, LOGITS, IDS)
def test_a_text_told_in_pieces_counts_as_told_at_once(source, artifact, ids):
    tally = Tally()
    tally.begin(10)
    tally.add(source[:1], artifact[:1], ids[:1])
    tally.add(source[1:], artifact[1:], ids[1:])
    assert tally.measurement() == tallied((source, artifact, ids))


@given(LOGITS, LOGITS, IDS)
def test_the_ratio_is_of_the_two_perplexities(source, artifact, ids):
    found = tallied((source, artifact, ids))
    assert found.perplexity_ratio == pytest.approx(found.perplexity / found.source_perplexity, rel=1e-6)


def test_a_coin_is_a_perplexity_of_two_and_a_bit_a_byte():
    even = np.zeros((3, 2), np.float32)
    found = tallied((even, even, [0, 1]), nbytes=2)
    assert found.perplexity == pytest.approx(2)
    assert found.bits_per_byte == pytest.approx(1)
    assert (found.perplexity_low, found.perplexity_high) == pytest.approx((2, 2))


def test_the_interval_narrows_with_the_root_of_the_tokens():
    few, many = (likelihood([1.0, 3.0] * count, 10) for count in (50, 5000))
    assert few.nll == many.nll == 2
    assert few.error == pytest.approx(10 * many.error, rel=0.01)
    assert math.log(few.interval[1]) == pytest.approx(2 + 1.96 * few.error)


def test_the_figures_are_finite_numbers_alone():
    found = tallied((np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), []))
    assert math.isnan(found.perplexity)
    figures = found.figures()
    assert "perplexity" not in figures
    assert (figures["kl_mean"], figures["top1"], figures["tokens"]) == (0, 1, 1)
    assert {type(value) for value in figures.values()} == {float}


def test_divergence_is_what_the_textbook_says():
    source, artifact = np.log([[0.5, 0.5]]).astype("f4"), np.log([[0.25, 0.75]]).astype("f4")
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergences(source, artifact)[0] == pytest.approx(expected, abs=1e-6)


def test_the_margin_is_between_the_two_likeliest():
    assert margin_of_first(np.log([0.2, 0.7, 0.1]).astype("f4")) == pytest.approx(0.5, abs=1e-6)


@given(
    st.sampled_from(["kl_mean", "kl_p99"]), st.sampled_from(["F32", "F16", "Q8_0", "INT8", "Q4_K_M", "Q2_K"])
)
def test_what_is_not_a_number_never_passes(part, type_name):
    numbers = {"kl_mean": 0.0, "kl_p99": 0.0, "top1": 1.0, part: math.nan}
    with pytest.raises(BuildError):
        judge(Measurement(**numbers, tokens=512, sequences=4), type_name)


def test_logits_that_are_not_numbers_make_a_measurement_that_does_not_pass():
    logits = np.zeros((2, 4), np.float32)
    with pytest.raises(BuildError, match="is not its source"):
        judge(tallied((logits, logits * np.nan, [0])), "Q4_0")


def test_fewer_bits_are_allowed_more_loss():
    by_bits = [BOUNDS[bits] for bits in sorted(BOUNDS, reverse=True)]
    assert by_bits == sorted(by_bits)


def test_the_judge_knows_every_type_by_its_bits():
    close = Measurement(kl_mean=0.04, kl_p99=0.4, top1=0.9, tokens=512, sequences=4)
    for type_name in ("Q8_0", "INT8", "Q6_K", "Q5_K_M", "IQ4_XS", "Q4_0", "Q3_K_S", "Q2_K"):
        judge(close, type_name)
    for type_name in ("F32", "F16", "BF16"):
        with pytest.raises(BuildError, match=f"the {type_name} artifact is not its source"):
            judge(close, type_name)


def test_a_type_without_a_bound_does_not_pass():
    nothing_lost = Measurement(kl_mean=0, kl_p99=0, top1=1, tokens=512, sequences=4)
    with pytest.raises(BuildError, match="no bound"):
        judge(nothing_lost, "TERNARY")

"""Gates: their numbers, and which of them is the stronger."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slmops.build.divergence import Measurement
from slmops.build.quality import QUALITIES, USUAL, Quality

PERFECT = Measurement(kl_mean=0.0, kl_p99=0.0, top1=1.0, tokens=512, sequences=8, perplexity_ratio=1.0)
GATED = ("kl_mean", "top1", "perplexity_ratio")

anything = st.floats(allow_nan=True, allow_infinity=True)
near = st.floats(0, 0.2)
measurements = st.builds(
    lambda kl, top1, ratio: replace(PERFECT, kl_mean=kl, top1=top1, perplexity_ratio=ratio),
    st.one_of(near, anything),
    st.one_of(near.map(lambda lost: 1 - lost), anything),
    st.one_of(near.map(lambda more: 1 + more), anything),
)
gates = st.builds(
    Quality,
    kl=st.floats(0, 10, exclude_min=True),
    top1=st.floats(0, 1),
    perplexity_ratio=st.floats(1, 100),
    enough=st.just(0.0),
)


def test_the_source_itself_passes_every_gate():
    assert [gate.complaint(PERFECT) for gate in QUALITIES.values()] == ["", "", ""]


@given(gates, st.sampled_from(GATED))
def test_what_is_not_a_number_passes_no_gate(gate, figure):
    assert gate.complaint(replace(PERFECT, **{figure: math.nan}))


@given(measurements)
def test_what_passes_a_gate_passes_every_weaker_one(measured):
    strict, balanced, small = (not QUALITIES[name].complaint(measured) for name in QUALITIES)

    assert list(QUALITIES) == ["strict", "balanced", "small"]
    assert not strict or balanced
    assert not balanced or small


@given(gates, measurements, st.tuples(near, near, near))
def test_an_artifact_that_is_better_in_all_never_fails_where_a_worse_one_passes(gate, worse, better):
    kl, top1, ratio = better
    improved = replace(
        worse,
        kl_mean=worse.kl_mean - kl,
        top1=worse.top1 + top1,
        perplexity_ratio=worse.perplexity_ratio - ratio,
    )
    if not gate.complaint(worse):
        assert not gate.complaint(improved)


@pytest.mark.parametrize("gate", QUALITIES.values(), ids=QUALITIES)
def test_good_is_never_worse_than_allowed(gate):
    assert gate.enough <= gate.kl
    with pytest.raises(ValidationError, match="at most kl"):
        Quality(kl=gate.kl, enough=2 * gate.kl)


def test_the_usual_gate_is_the_one_without_words():
    assert QUALITIES[USUAL] == Quality()


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"kl_mean": 0.0312}, "mean divergence 0.031, at most 0.03 allowed"),
        ({"top1": 0.914}, "same first choice 91.4%, at least 93.0% wanted"),
        ({"perplexity_ratio": 1.25}, "1.250 times the source's perplexity, at most 1.03 allowed"),
        ({"kl_mean": math.nan}, "mean divergence nan, at most 0.03 allowed"),
    ],
)
def test_a_complaint_says_what_was_measured_and_what_is_allowed(measured, words):
    assert Quality().complaint(replace(PERFECT, **measured)) == words


@pytest.mark.parametrize("said", [{"kl": 0}, {"kl": -1}, {"top1": 1.1}, {"perplexity_ratio": 0.9}, {"k1": 1}])
def test_what_is_no_gate_is_refused(said):
    with pytest.raises(ValidationError):
        Quality(**said)


def test_of_a_narrower_gate_what_is_allowed_is_enough():
    assert Quality(kl=1e-9).enough == 1e-9
    assert Quality(kl=0.5).enough == Quality().enough

"""The best of what was built: the laws of the choice, over any outcomes."""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.build.choice import CHOSEN, Outcome, pick
from slmops.build.divergence import Measurement
from slmops.build.plan import Make
from slmops.build.quality import QUALITIES, Quality
from slmops.errors import DoesNotFitError, QualityError
from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.fit import Candidate, hold
from slmops.profile.footprint import ModelShape

MIB = 1 << 20
SHAPE = ModelShape(
    layers=24, hidden=896, heads=14, kv_heads=2, head_dim=64, vocab=32_000, parameters=400_000_000
)
KINDS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")


def board(memory=4000 * MIB, wanted=0.0):
    return DeviceProfile(
        name="board",
        title="A board",
        arch="aarch64",
        cpu=Cpu(model="Cortex-A76", cores=4),
        memory=Memory(total=memory + 1, reserve=1, bandwidth=10_000 * MIB),
        storage=Storage(kind="sd", free=4096 * MIB),
        system=System(os="Debian"),
        serve=Serve(context=2048, threads=4, min_tokens_per_second=wanted),
        formats=("gguf", "onnx"),
    )


def outcome(profile, made, nbytes, kl, *, top1=0.99, ratio=1.0):
    """Return a model of so many bytes and such a loss, held against the profile."""
    make = Make(*made) if isinstance(made, tuple) else Make("gguf", made)
    (fit,) = hold(profile, SHAPE, [Candidate(make.format, make.type, nbytes)])
    measured = Measurement(kl, kl, top1, tokens=512, sequences=8, perplexity_ratio=ratio)
    return Outcome(make, nbytes, 8 * nbytes / SHAPE.parameters, fit, measured)


def against(profile, outcomes):
    """Return the same models held against another profile."""
    return [
        replace(one, fit=hold(profile, SHAPE, [Candidate(one.make.format, one.make.type, one.bytes)])[0])
        for one in outcomes
    ]


mebibytes = st.integers(1, 3000).map(lambda count: count * MIB)
boards = st.builds(board, mebibytes, st.sampled_from([0.0, 10.0, 50.0]))
gates = st.sampled_from(list(QUALITIES.values()))
measures = st.tuples(
    st.sampled_from([1e-4, 9e-4, 1e-3, 4e-3, 6e-3, 0.02, 0.05, 0.2]),
    st.sampled_from([0.999, 0.99, 0.95, 0.9, 0.5]),
    st.sampled_from([1.0, 1.005, 1.02, 1.1, 1.5]),
)


@st.composite
def several(draw, profiles=boards):
    """A profile, and what was built for it."""
    profile = draw(profiles)
    makes = st.tuples(st.sampled_from(["gguf", "onnx"]), st.sampled_from(KINDS))
    made = draw(st.lists(makes, min_size=1, max_size=6, unique=True))
    outcomes = []
    for make in made:
        kl, top1, ratio = draw(measures)
        outcomes.append(outcome(profile, make, draw(mebibytes), kl, top1=top1, ratio=ratio))
    return profile, outcomes


def picked(profile, outcomes, quality):
    try:
        return pick(profile, outcomes, quality)
    except QualityError:
        return None


def is_sound(one, quality):
    return not one.fit.short and not quality.complaint(one.measured)


@given(several(), gates)
def test_what_is_chosen_fits_keeps_the_gate_and_is_fast_enough_if_anything_is(built, quality):
    profile, outcomes = built
    found = picked(profile, outcomes, quality)
    sound = [one for one in outcomes if is_sound(one, quality)]

    assert (found is not None) == bool(sound)
    if found:
        assert found.best in sound
        assert not found.best.fit.slow or all(one.fit.slow for one in sound)


@given(several(), gates)
def test_no_other_sound_one_is_both_smaller_in_memory_and_closer(built, quality):
    profile, outcomes = built
    found = picked(profile, outcomes, quality)
    assume(found and not found.best.fit.slow)
    best = found.best

    for one in outcomes:
        if is_sound(one, quality) and not one.fit.slow:
            smaller = one.fit.need.total < best.fit.need.total
            assert not (smaller and one.measured.kl_mean < best.measured.kl_mean)


@given(several(), gates)
def test_of_good_ones_the_smallest_is_chosen_else_the_closest(built, quality):
    profile, outcomes = built
    found = picked(profile, outcomes, quality)
    assume(found and not found.best.fit.slow)
    rivals = [one for one in outcomes if is_sound(one, quality) and not one.fit.slow]
    good = [one for one in rivals if one.measured.kl_mean <= quality.enough]

    if good:
        assert found.best in good
        assert found.best.fit.need.total == min(one.fit.need.total for one in good)
    else:
        assert found.best.measured.kl_mean == min(one.measured.kl_mean for one in rivals)


@given(several(), gates, st.randoms())
def test_the_order_of_outcomes_does_not_matter(built, quality, dice):
    profile, outcomes = built
    found, again = (
        picked(profile, order, quality) for order in (outcomes, dice.sample(outcomes, len(outcomes)))
    )

    assert (found and (found.best, found.reason)) == (again and (again.best, again.reason))
    if found:
        assert set(found.verdicts) == set(again.verdicts)


def test_of_two_that_are_alike_too_slow_the_order_does_not_decide_either():
    profile = board(wanted=1000)
    twins = [outcome(profile, kind, 300 * MIB, kl) for kind, kl in (("Q6_K", 0.002), ("Q5_K_M", 0.02))]

    for order in (twins, twins[::-1]):
        assert pick(profile, order, QUALITIES["balanced"]).best.make.type == "Q6_K"


@given(several(), gates, mebibytes)
def test_with_more_memory_the_choice_never_lies_further_unless_it_is_good(built, quality, more):
    profile, outcomes = built
    before = picked(profile, outcomes, quality)
    assume(before and not before.best.fit.slow)
    richer = board(profile.memory.budget + more, profile.serve.min_tokens_per_second)
    after = picked(richer, against(richer, outcomes), quality)

    assert after is not None
    assert not after.best.fit.slow
    assert after.best.measured.kl_mean <= max(before.best.measured.kl_mean, quality.enough)


@given(several(), gates)
def test_every_outcome_is_spoken_of_once_and_one_is_chosen(built, quality):
    profile, outcomes = built
    found = picked(profile, outcomes, quality)
    assume(found)

    assert [one for one, _ in found.verdicts] == outcomes
    assert [one for one, said in found.verdicts if said == CHOSEN] == [found.best]
    for one, said in found.verdicts:
        assert said
        lacks = one.fit.short or quality.complaint(one.measured)
        assert not lacks or said == lacks


@given(several())
def test_a_type_asked_for_by_name_needs_no_gate_and_must_fit(built):
    profile, (first, *_) = built

    if first.fit.short:
        with pytest.raises(DoesNotFitError, match=re.escape(first.fit.short)):
            pick(profile, [first], None)
    else:
        found = pick(profile, [first], None)
        assert (found.best, found.verdicts) == (first, ((first, CHOSEN),))
        assert found.reason.startswith(f"{first.make} was asked for and fits board: ")


def test_what_is_good_enough_and_smallest_is_chosen_with_reasons_in_words():
    profile = board()
    outcomes = [
        outcome(profile, "F16", 994 * MIB, 1e-6),
        outcome(profile, "Q8_0", 531 * MIB, 0.0004),
        outcome(profile, "Q6_K", 450 * MIB, 0.0041),
        outcome(profile, "Q4_K_M", 398 * MIB, 0.021),
        outcome(profile, "Q2_K", 339 * MIB, 0.4),
    ]

    found = pick(profile, outcomes, QUALITIES["balanced"])

    assert found.best.make.type == "Q6_K"
    assert found.reason.startswith(
        "gguf Q6_K is the smallest of 5 that board can bear to keep the gate and be good: divergence 0.0041, "
    )
    assert [said for _, said in found.verdicts] == [
        "larger",
        "larger",
        CHOSEN,
        "worse",
        "mean divergence 0.4, at most 0.03 allowed",
    ]


def test_what_nothing_good_fits_is_closest_and_says_so():
    profile = board()
    outcomes = [outcome(profile, "Q4_K_M", 398 * MIB, 0.021), outcome(profile, "Q4_0", 390 * MIB, 0.028)]

    found = pick(profile, outcomes, QUALITIES["balanced"])

    assert found.reason.startswith(
        "gguf Q4_K_M is closest to the source of 2 that board can bear: divergence 0.021, "
    )
    assert found.verdicts[1][1] == "farther"


def test_where_nothing_is_fast_enough_the_fastest_is_chosen_and_says_so():
    profile = board(wanted=1000)
    outcomes = [outcome(profile, "Q8_0", 531 * MIB, 0.0004), outcome(profile, "Q6_K", 450 * MIB, 0.0041)]

    found = pick(profile, outcomes, QUALITIES["balanced"])

    assert found.best.make.type == "Q6_K"
    assert found.reason.startswith(
        "nothing that keeps the gate reaches 1000 tokens/s on board; gguf Q6_K is fastest: divergence 0.0041"
    )
    assert found.verdicts[0][1] == outcomes[0].fit.slow


def test_where_nothing_keeps_the_gate_the_nearest_is_named_with_what_would_help():
    profile = board()
    outcomes = [outcome(profile, "Q4_K_M", 398 * MIB, 0.2), outcome(profile, "Q5_K_M", 420 * MIB, 0.06)]

    with pytest.raises(QualityError) as caught:
        pick(profile, outcomes, Quality())

    assert str(caught.value) == (
        "nothing that fits board keeps the gate; nearest comes gguf Q5_K_M: "
        "mean divergence 0.06, at most 0.03 allowed"
    )
    assert "--quality small" in caught.value.remedy

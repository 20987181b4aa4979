"""Requests are dealt out as the weights say, stay where they were, and two versions are compared fairly."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon import traffic
from slmops.daemon.refusal import RefusedError
from slmops.daemon.traffic import Comparison, Shadow, Traffic, agreement
from slmops.telemetry.events import RequestFinished

SPARE = {field.name: "" for field in fields(RequestFinished) if field.name in {"label", "kind"}}
KEYS = [f"user {number}" for number in range(4000)]
weights = st.dictionaries(st.sampled_from(traffic.LABELS), st.integers(0, 100), min_size=1).filter(
    lambda said: any(said.values())
)


def event(digest="a", *, status=200, first=0.1, each=0.01, tokens=11):
    return RequestFinished(
        time=0.0, release="m:1", digest=digest, status=status, prompt_tokens=5, output_tokens=tokens,
        first_token_seconds=first, seconds=first + each * (tokens - 1), **SPARE,
    )  # fmt: skip


def compared(base, other, shadows=()):
    comparison = Comparison("a", "b")
    for each in [*base, *other]:
        comparison.count(each)
    for each in shadows:
        comparison.pair(each, ("so be it", "so be it"))
    return comparison.report()


@given(weights, st.text())
def test_a_key_goes_to_a_label_that_has_weight_and_always_to_the_same(split, key):
    chosen = Traffic(split).label(key)

    assert split[chosen] > 0
    assert Traffic(dict(reversed(split.items()))).label(key) == chosen


@given(weights, st.integers(2, 50), st.text())
def test_only_the_proportion_of_weights_counts(split, times, key):
    assert Traffic({label: each * times for label, each in split.items()}).label(key) == Traffic(split).label(
        key
    )


@given(weights, st.sampled_from(traffic.LABELS), st.integers(1, 100), st.text())
def test_raising_a_weight_moves_keys_to_that_label_only(split, raised, more, key):
    before = Traffic(split).label(key)
    after = Traffic({**split, raised: split.get(raised, 0) + more}).label(key)

    assert after in {before, raised}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_keys_are_dealt_out_as_the_weights_say(share):
    split = Traffic({"current": 1 - share, "candidate": share})

    got = sum(split.label(key) == "candidate" for key in KEYS) / len(KEYS)

    assert got == pytest.approx(share, abs=0.025)


def test_few_move_when_a_share_grows_by_little():
    before, after = Traffic({"current": 90, "candidate": 10}), Traffic({"current": 85, "candidate": 15})

    moved = sum(before.label(key) != after.label(key) for key in KEYS) / len(KEYS)

    assert moved == pytest.approx(0.05, abs=0.015)


@given(st.text(), st.floats(0, 1), st.integers(1, 9))
def test_a_shadow_is_asked_only_when_nothing_waits_and_never_beside_itself(key, share, waiting):
    shadowing = Traffic(shadow=Shadow("candidate", share))

    assert shadowing.beside(key, "current", waiting=waiting) is None
    assert shadowing.beside(key, "candidate", waiting=0) is None


def test_a_share_of_the_keys_is_shadowed_none_at_0_and_all_at_1():
    got = {
        share: sum(
            Traffic(shadow=Shadow("candidate", share)).beside(key, "current", waiting=0) == "candidate"
            for key in KEYS
        )
        for share in (0.0, 0.25, 1.0)
    }
    assert (got[0.0], got[1.0]) == (0, len(KEYS))
    assert got[0.25] / len(KEYS) == pytest.approx(0.25, abs=0.025)


@given(weights, st.none() | st.builds(Shadow, st.sampled_from(traffic.LABELS), st.floats(0, 1)))
def test_what_is_told_is_read_back(split, shadow):
    told = Traffic({label: float(each) for label, each in split.items()}, shadow)

    assert traffic.read(told.said()) == told


@pytest.mark.parametrize(
    "said",
    [
        [], {"splt": {}}, {"split": 3}, {"split": {"newest": 1}}, {"split": {"current": -1}},
        {"split": {"current": 0}}, {"split": {"current": True}}, {"split": {"current": float("nan")}},
        {"split": {"current": 10**400}}, {"shadow": "candidate"}, {"shadow": {"label": "candidate"}},
        {"shadow": {"label": "candidate", "share": 1.5}}, {"shadow": {"label": [], "share": 1}},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(said):
    with pytest.raises(RefusedError) as refused:
        traffic.read(said)
    assert refused.value.status == 400


def test_nothing_is_said_of_a_few_requests():
    report = compared([event("a")] * 100, [event("b", status=500)] * (traffic.ENOUGH - 1))

    assert report["verdict"] == "unknown"


def test_a_version_like_the_other_is_no_worse():
    report = compared([event("a")] * 100, [event("b")] * 100)

    assert (report["verdict"], report["why"]) == ("no worse", [])
    assert report["other"]["first_token"] == pytest.approx({"p50": 0.1, "p95": 0.1, "p99": 0.1})
    assert report["other"]["per_token"]["p50"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("bad", "word"),
    [({"status": 500}, "errors"), ({"first": 0.2}, "first token"), ({"each": 0.02}, "a token")],
)
def test_errors_and_slowness_are_worse_and_it_is_said_which(bad, word):
    report = compared([event("a")] * 200, [event("b")] * 80 + [event("b", **bad)] * 120)

    assert report["verdict"] == "worse"
    assert word in " ".join(report["why"])


def test_what_was_given_again_is_no_speed_of_a_version():
    again = replace(event("b"), first_token_seconds=None, output_tokens=0, prompt_tokens=0, seconds=0.0)
    unlike = compared([event("a")] * 200, [again] * 190 + [event("b", each=0.02)] * 10)
    cached = compared([replace(again, digest="a")] * 200, [event("b", each=0.02)] * 200)

    assert unlike["verdict"] == cached["verdict"] == "unknown"
    assert compared([event("a")] * 200, [again] * 170 + [event("b", each=0.02)] * 30)["verdict"] == "worse"


def test_two_errors_are_chance_and_what_a_client_did_wrong_is_no_error():
    others = [event("b")] * 40 + [event("b", status=502)] * 2 + [event("b", status=499)] * 10

    assert compared([event("a")] * 100, others)["verdict"] == "no worse"


def test_a_shadow_is_judged_by_its_errors_and_not_by_its_times():
    slow = compared([event("a")] * 50, [], [event("b", first=5.0)] * 50)
    failing = compared([event("a")] * 50, [], [event("b", status=500)] * 50)

    assert (slow["verdict"], failing["verdict"]) == ("no worse", "worse")
    assert slow["other"]["requests"] == 0
    assert slow["shadow"]["requests"] == slow["agreement"]["pairs"] == 50


def test_requests_that_another_version_answered_are_not_counted():
    report = compared([event("c")] * 5, [])

    assert report["base"]["requests"] == report["other"]["requests"] == 0


def test_only_the_latest_are_remembered():
    report = compared([event("a")] * (traffic.LATEST + 1), [])

    assert report["base"]["requests"] == traffic.LATEST


@given(st.text(), st.text())
def test_agreement_is_the_same_from_both_sides_and_whole_with_itself(one, other):
    assert agreement(one, other) == agreement(other, one)
    assert 0 <= agreement(one, other).overlap <= 1
    assert agreement(one, one) == traffic.Agreement(exact=True, overlap=1.0)


def test_the_overlap_counts_words_and_signs():
    assert agreement("The lamp is on.", "The lamp is off.").overlap == pytest.approx(0.8)


def test_the_table_names_what_was_compared():
    drawn = traffic.table(compared([event("a")] * 40, [event("b")] * 40, [event("b")] * 3))

    assert "requests" in drawn
    assert "3 pairs: 100% alike, 100% of the words in common" in drawn
    assert drawn.endswith("no worse")


def test_a_p95_of_few_requests_is_chance_and_judged_by_nobody():
    few = [event("b", first=0.2)] * (traffic.ENOUGH_FOR_P95 - 1)
    assert compared([event("a")] * 300, few)["verdict"] == "no worse"
    assert compared([event("a")] * 300, [*few, few[0]])["verdict"] == "worse"

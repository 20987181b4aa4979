"""What the fold of versions keeps, whatever records it is given."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact.description import Description
from slmops.daemon.versions import (
    KINDS,
    LABELS,
    REMEMBERED,
    State,
    Version,
    asked,
    fold,
    kept,
    pick,
    step,
    why_not_promoted,
)

DIGESTS = [f"sha256:{letter * 64}" for letter in "abcd"]
A, B, C, _ = DIGESTS

share = st.sampled_from([0, 0.1, 0.5, 1, float("nan"), "all", None])
record = st.fixed_dictionaries(
    {"kind": st.sampled_from([*KINDS, "later"]), "at": st.just(1.0)},
    optional={
        "digest": st.sampled_from([*DIGESTS, None]),
        "by": st.sampled_from(["router", "agent"]),
        "memory": st.sampled_from([0, 7]),
        "why": st.just("it crashed"),
        "split": st.dictionaries(st.sampled_from([*LABELS, "other"]), share, max_size=3),
        "shadow": st.dictionaries(st.sampled_from([*LABELS, "other"]), share, max_size=2),
        "state": st.none() | st.just({"labels": {"current": A}}),
    },
)
likely = st.builds(
    lambda kind, digest: {"kind": kind, "digest": digest, "at": 1.0},
    st.sampled_from(["loading", "loaded", "gated", "promoted", "rolled_back", "dropped", "failed"]),
    st.sampled_from(DIGESTS),
)
records = st.lists(record | likely, max_size=40)


def served(*digests):
    """Records by which versions were loaded, gated and promoted, one after the other."""
    return [
        {"kind": kind, "digest": digest, "at": 1.0, "memory": 5, "folder": f"/slots/{digest[-3:]}"}
        for digest in digests
        for kind in ("loading", "loaded", "gated", "promoted")
    ]


def one(kind, digest=None, **said):
    return {"kind": kind, "at": 2.0, **({"digest": digest} if digest else {}), **said}


@given(records)
def test_every_prefix_names_a_current_that_was_loaded_and_gated_when_it_became_so(history):
    state = State()
    for each in history:
        after = step(state, each)
        if after.current != state.current and each["kind"] != "kept":
            assert state.stage(after.current).loaded
            assert state.stage(after.current).gated
        assert after.current is None or after.stage(after.current).gated
        assert after.previous is None or after.stage(after.previous).gated
        state = after


@given(records)
def test_no_version_bears_two_labels_and_a_candidate_is_always_loaded(history):
    state = fold(history)
    assert len(set(state.labels.values())) == len(state.labels)
    assert state.candidate is None or state.stage(state.candidate).loaded


@given(records)
def test_once_there_is_a_current_there_always_is_one(history):
    state = fold(served(A))
    for each in history:
        state = step(state, each)
        assert state.current is not None


@given(records)
def test_only_what_is_gated_gets_a_share_of_real_requests(history):
    state = fold(history)
    for label in state.split:
        assert state.stage(state.labels[label]).gated
    for label in state.shadow:
        assert label in state.labels
        assert label != "current"


@given(records, record | likely)
def test_a_record_repeated_changes_nothing(history, each):
    once = step(fold(history), each)
    assert step(once, each) == once


@given(records)
def test_what_a_long_journal_is_rewritten_to_folds_to_the_same(history):
    state = fold(history)
    assert fold([kept(state, 1.0)]) == state


def test_a_rewritten_journal_forgets_only_what_bears_no_label_and_is_long_ago():
    many = [f"sha256:{number:064x}" for number in range(REMEMBERED + 10)]
    state = fold([*served(A, B), *(one("loading", digest) for digest in many)])
    rest = fold([kept(state, 1.0)])
    assert rest.labels == state.labels
    assert [digest for digest in rest.known if digest not in (A, B)] == many[10:]


def test_a_version_is_loaded_gated_promoted_and_what_was_current_is_previous():
    assert fold(served(A, B)).labels == {"current": B, "previous": A}
    assert fold(served(A, B, C)).labels == {"current": C, "previous": B}


def test_a_loaded_version_is_a_candidate_until_it_is_promoted_dropped_or_failed():
    state = fold([*served(A), one("loading", B), one("loaded", B)])
    assert state.labels == {"current": A, "candidate": B}
    assert why_not_promoted(state, B) == "it has passed no gate"
    assert step(state, one("dropped", B)).labels == {"current": A}
    assert step(state, one("failed", B)).labels == {"current": A}
    assert why_not_promoted(step(state, one("failed", B)), B) == "it is not loaded"


def test_a_rollback_brings_previous_back_and_what_was_rolled_back_must_pass_a_gate_again():
    state = step(fold(served(A, B)), one("rolled_back", B, why="it answered wrongly"))
    assert state.labels == {"current": A}
    assert state.withdrawn == B
    assert state.stage(B).failure == {"why": "it answered wrongly", "at": 2.0}
    assert step(state, one("promoted", B)).current == A


def test_nobody_rolls_back_to_what_is_not_loaded():
    state = fold([*served(A, B), one("dropped", A)])
    assert state.labels == {"current": B, "previous": A}
    assert step(state, one("rolled_back", B)).current == B
    again = fold([one("loading", A), one("loaded", A), one("rolled_back", B)], state)
    assert again.current == A


def test_a_new_router_has_nothing_loaded_and_no_candidate_but_knows_what_was_gated():
    state = fold([*served(A, B), one("loading", C), one("loaded", C), one("gated", C), one("started")])
    assert state.labels == {"current": B, "previous": A}
    assert not any(stage.loaded for stage in state.known.values())
    assert step(state, one("promoted", C)).current == B


def test_a_version_that_did_not_serve_must_pass_its_gate_again_after_another_load():
    history = [*served(A), one("loading", B), one("loaded", B), one("gated", B)]
    assert fold(history).stage(B).gated
    assert not fold([*history, one("loading", B), one("loaded", B)]).stage(B).gated


def test_a_share_ends_with_the_label_that_had_it():
    history = [*served(A), *served(B)[:3], one("split", split={"current": 9, "candidate": 1})]
    history.append(one("shadowed", shadow={"candidate": 0.5}))
    assert fold(history).split == {"current": 9, "candidate": 1}
    assert fold(history).shadow == {"candidate": 0.5}
    assert fold([*history, one("dropped", B)]).split == {}
    assert fold([*history, one("dropped", B)]).shadow == {}


def test_what_was_measured_is_remembered_over_loads():
    assert fold([*served(A), one("loading", A), one("loaded", A)]).stage(A).memory == 5


def test_a_label_a_digest_or_its_beginning_finds_a_version():
    state = fold(served(A, B))
    assert state.find("previous") == A
    assert state.find(A) == A
    assert state.find("sha256:" + "b" * 12) == B
    assert state.find("b" * 12) == B
    assert state.find("b" * 11) is None
    assert state.find("candidate") is None


def version(digest, name="home", number="1.0.0"):
    said = dict.fromkeys((each.name for each in dataclasses.fields(Description)), "")
    kinds = {"name": name, "version": number, "labels": [], "predicted": {}}
    return Version(digest, "/slots", Description(**{**said, **kinds}))


RESIDENTS = {
    A: version(A),
    B: version(B, number="1.1.0"),
    C: version(C, number="1.2.0"),
}
STATE = fold([*served(A, B), one("loading", C), one("loaded", C)])


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (None, B),
        ("home", B),
        ("home:1.0.0", A),
        ("home:1.2.0", C),
        ("home:9.9.9", None),
        ("home@previous", A),
        ("home@candidate", C),
        ("other@candidate", None),
        ("home:1.0.0@current", None),
        (f"home:1.2.0@{C}", C),
        (f"home:1.2.0@{C[:19]}", C),
        (f"home:1.1.0@{C}", None),
        ("other", None),
    ],
)
def test_a_name_means_one_resident_version(model, found):
    assert pick(asked(model), RESIDENTS, STATE) == found


def test_current_is_meant_though_it_is_away_and_previous_is_not():
    away = fold([{**each, "release": "home:1.0.0"} for each in served(A, B)])
    assert pick(asked("home:1.0.0"), {}, away) == B
    assert pick(asked("home@current"), {}, away) == B
    assert pick(asked("home@previous"), {}, away) is None
    assert pick(asked("home:1.1.0"), {}, away) is None


@pytest.mark.parametrize("model", ["", "home@", "home@next", "home:", ":1", "home@sha256:abc", "home:1:2"])
def test_what_is_no_name_of_a_model_is_none(model):
    assert asked(model) is None


def test_only_a_name_alone_leaves_the_version_open():
    assert asked(None).is_open
    assert asked("home").is_open
    assert not asked("home:1.0.0").is_open
    assert not asked("home@current").is_open

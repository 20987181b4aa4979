"""How far one classifier's answers lie from another's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slmops.build.classification import Accuracy, compare, judge_classifier, sure_prompts
from slmops.errors import BuildError

LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-20, 20, width=32))
LABELS = st.lists(st.none() | st.integers(0, 2), min_size=4, max_size=4)


@given(LOGITS, LABELS)
def test_a_classifier_loses_nothing_against_itself(rows, labels):
    found = compare(rows, rows, labels)

    assert (found.kl_mean, found.kl_p99, found.top1, found.texts) == (0, 0, 1, 4)
    assert found.accuracy == found.source_accuracy


@given(LOGITS, LOGITS)
def test_loss_is_never_negative_and_agreement_is_a_share(source, artifact):
    found = compare(source, artifact, [None] * 4)

    assert found.kl_mean >= 0
    assert found.kl_p99 >= 0
    assert 0 <= found.top1 <= 1
    assert found.accuracy is None


def test_divergence_is_the_one_of_the_textbook():
    source, artifact = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])

    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert compare(source, artifact, [0]).kl_mean == pytest.approx(expected)


def test_accuracy_counts_the_texts_whose_label_is_known():
    source = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    artifact = np.eye(3, dtype=np.float32)[[0, 1, 1, 0]]

    found = compare(source, artifact, [0, None, 2, 1])
    assert (found.source_accuracy, found.accuracy) == (Accuracy(2, 3), Accuracy(1, 3))
    assert found.figures()["accuracy"] == pytest.approx(1 / 3)
    assert found.figures()["source_accuracy_low"] < 2 / 3 < found.figures()["source_accuracy_high"]


@given(st.integers(1, 10_000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_an_interval_holds_its_share_and_stays_a_share(counts):
    found = Accuracy(*counts)
    low, high = found.interval

    assert 0 <= low <= found.share + 1e-12
    assert found.share - 1e-12 <= high <= 1
    assert high - low < 1


def test_the_interval_is_wilsons():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, method 3.
    assert Accuracy(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    # The same, 0 of 20.
    assert Accuracy(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize("type_name", ["F32", "INT8-dynamic", "INT8-static"])
def test_what_says_something_else_is_not_its_source(type_name):
    rows = np.eye(3, dtype=np.float32) * 9

    judge_classifier(compare(rows, rows, [None] * 3), type_name)
    with pytest.raises(BuildError, match=f"the {type_name} artifact is not its source: mean divergence"):
        judge_classifier(compare(rows, rows[::-1], [None] * 3), type_name)
    with pytest.raises(BuildError, match="nan"):
        judge_classifier(compare(rows, rows * np.nan, [None] * 3), type_name)


def test_golden_prompts_are_texts_that_all_are_sure_of_each_for_another_label():
    source = np.array([[9, 0, 0], [1, 0.9, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9]], np.float32)
    artifact = source.copy()
    artifact[3] = [9, 0, 0]
    known = [None, 0, 0, 1, 1, 2]

    found = sure_prompts([f"text {n}" for n in range(6)], known, ["a", "b", "c"], source, [source, artifact])

    assert [(golden.prompt, golden.expect, golden.match) for golden in found] == [
        ("text 0", "a", "exact"),
        ("text 5", "c", "exact"),
    ]

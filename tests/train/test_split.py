"""What is learned and what is held out."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import DocumentError
from slmops.train.samples import collect
from slmops.train.split import LEAST, split, take, without

corpora = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=60).filter(
    lambda texts: len(set(map(tuple, texts))) > 1
)


def samples_of(texts):
    return collect((text, [True] * len(text)) for text in texts)


def texts_of(samples):
    return [tuple(samples.ids[samples.part(place)].tolist()) for place in range(len(samples))]


@given(corpora, st.randoms())
def test_what_is_held_out_depends_on_the_texts_and_not_on_their_order_or_how_often_they_come(texts, chance):
    shuffled = chance.sample(texts, len(texts)) + chance.sample(texts, 1)

    assert set(texts_of(split(samples_of(texts))[1])) == set(texts_of(split(samples_of(shuffled))[1]))


@given(corpora)
def test_no_text_lies_on_both_sides_and_none_is_lost(texts):
    learned, held = map(texts_of, split(samples_of(texts)))

    assert set(learned).isdisjoint(held)
    assert {*learned, *held} == set(map(tuple, texts))
    assert len(held) == len(set(held)) == min(max(round(len(set(held) | set(learned)) * 0.05), LEAST),
        len({*held, *learned}) // 2)  # fmt: skip
    assert sorted(learned) == sorted(tuple(text) for text in texts if tuple(text) not in held)


def test_one_text_however_often_is_too_few():
    with pytest.raises(DocumentError, match="expected two different samples at least"):
        split(samples_of([[1, 2]] * 9))


def test_labels_go_along():
    numbers = list(range(40))
    random.Random(1).shuffle(numbers)  # noqa: S311 - an order, no secret
    samples = collect((([number, 9], [False] * 2) for number in numbers), numbers)
    learned, held = split(samples)

    for side in (learned, held):
        assert side.labels.tolist() == side.ids[side.starts[:-1]].tolist()


def test_what_a_validation_file_holds_is_not_learned():
    samples, held = samples_of([[1, 2], [3], [1, 2], [4]]), samples_of([[1, 2], [5]])

    assert texts_of(without(samples, held)) == [(3,), (4,)]
    with pytest.raises(DocumentError, match="held out"):
        without(held, held)


def test_taking_samples_keeps_what_is_learned_of_them():
    samples = collect([([1, 2, 3], [False, False, True]), ([4, 5], [True, True])])
    taken = take(samples, [1, 0])

    assert texts_of(taken) == [(4, 5), (1, 2, 3)]
    assert taken.learned.tolist() == [False, True, False, False, True]
    assert np.array_equal(taken.starts, [0, 2, 5])

"""Teacher and student speak the same words, or it is said where they part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import ModelError
from slmops.train.agreement import Agreement, Words, agree, agree_labels

TOKENS = ["<s>", "</s>", "a", "b", "c", "ab", "abc"]
TEXTS = ["abc", "ab", "a b c", [{"role": "user", "content": "cab"}]]


def words(tokens, *, rows=None, where="model", begin="<s>", end="</s>", rule=None):
    """Return the words of a model that takes the longest token it knows."""
    ids = {token: id_ for id_, token in enumerate(tokens)}

    def cut(text):
        said = text if isinstance(text, str) else "".join(turn["content"] for turn in text)
        found, left = [], said.replace(" ", "")
        while left:
            token = max((one for one in ids if left.startswith(one)), key=len)
            found.append(ids[token])
            left = left[len(token) :]
        return found

    return Words(where, ids, rows or len(tokens), ids.get(begin), ids.get(end), cut, rule)


def test_one_vocabulary_is_compared_as_it_stands():
    found = agree(words(TOKENS), words(TOKENS), range(7), TEXTS)
    assert (found.reads, found.student, found.teacher) == (None, None, None)
    assert found.width(7) == 7


def test_a_student_with_a_part_of_the_vocabulary_is_mapped_by_the_tokens_themselves():
    kept = ["</s>", "<s>", "c", "b", "a"]
    found = agree(words(kept), words(["<s>", "</s>", "a", "b", "c"]), range(5), TEXTS)
    assert found.reads.tolist() == [1, 0, 4, 3, 2]
    assert found.teacher.tolist() == [1, 0, 4, 3, 2]
    assert found.student.tolist() == [0, 1, 2, 3, 4]


@given(st.integers(0, 9), st.integers(0, 9))
def test_rows_that_are_no_token_are_compared_with_nothing(own, other):
    found = agree(words(TOKENS, rows=7 + own), words(TOKENS, rows=7 + other), range(7), TEXTS)
    if own == other:
        assert found.teacher is None
    else:
        assert found.student.tolist() == found.teacher.tolist() == list(range(7))
        assert found.reads.tolist() == [*range(7), *([-1] * own)]


def test_a_token_of_the_data_that_the_teacher_lacks_is_named():
    with pytest.raises(ModelError, match=r"'abc'.*teacher does not have"):
        agree(words(TOKENS), words(TOKENS[:-1], where="teacher"), [2, 6], [])


def test_an_added_token_that_the_data_does_not_use_is_no_matter():
    found = agree(words([*TOKENS, "<extra>"]), words(TOKENS), range(7), TEXTS)
    assert found.reads.tolist() == [*range(7), -1]
    assert len(found.student) == found.width(7) == 7


def test_another_segmentation_is_shown_with_its_text():
    with pytest.raises(ModelError) as caught:
        agree(words(TOKENS[:-1], where="small"), words(TOKENS, where="large"), range(6), ["ab", "cabc"])
    said = str(caught.value)
    assert "'cabc', from token 2 on" in said
    assert "'ab' 'c'   (small)" in said
    assert "'abc'   (large)" in said
    assert "write-answers" in caught.value.remedy


def test_texts_are_not_read_where_the_rules_are_the_same():
    agree(words(TOKENS, rule="same"), words(TOKENS, rule="same"), range(7), iter([None]))


def test_other_ends_are_refused():
    with pytest.raises(ModelError, match="ends a text with 'a', teacher with '</s>'"):
        agree(words(TOKENS, end="a"), words(TOKENS, where="teacher"), range(7), TEXTS)
    with pytest.raises(ModelError, match="begins a text with nothing"):
        agree(words(TOKENS, begin=None), words(TOKENS), range(7), TEXTS)


@given(st.permutations(["x", "y", "z", "w"]))
def test_labels_are_mapped_by_their_names(order):
    names = ["x", "y", "z", "w"]
    found = agree_labels(Agreement(), order, names)
    places = range(4) if found.teacher is None else found.teacher
    assert [names[place] for place in places] == order
    assert (found.teacher is None) == (order == names)


def test_other_labels_are_refused():
    with pytest.raises(ModelError, match="not have the same labels: c, d on one side"):
        agree_labels(Agreement(), ["a", "b", "c"], ["a", "b", "d"])


def test_another_map_has_another_digest():
    one, other = (Agreement(teacher=np.array(places)) for places in ([0, 1], [1, 0]))
    assert len({one.digest, other.digest, Agreement().digest}) == 3

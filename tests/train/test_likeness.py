"""How alike texts are, and finding again what is like one."""

from hypothesis import given
from hypothesis import strategies as st

from slmops.train.likeness import NEAR, Shelf, likeness, normal, runs

texts = st.lists(
    st.sampled_from(
        ["a", "big", "red", "ball", "was", "lost", "in", "the", "wood", "and", "found", "by", "Tom"]
    ),
    max_size=60,
)
STORY = " ".join(f"word{number}" for number in range(100))


@given(texts, texts)
def test_likeness_is_symmetric_and_whole_of_a_text_and_itself(one, other):
    first, second = runs(" ".join(one)), runs(" ".join(other))
    assert likeness(first, second) == likeness(second, first)
    assert 0 <= likeness(first, second) <= 1
    assert likeness(first, first) == 1


@given(st.text())
def test_any_text_has_runs(text):
    assert len(runs(text)) >= 1
    assert normal(normal(text)) == normal(text)


@given(st.lists(texts, max_size=8), texts)
def test_a_shelf_names_no_text_that_is_less_alike(before, one):
    shelf = Shelf()
    for text in before:
        shelf.put(runs(" ".join(text)))
    found = shelf.near(runs(" ".join(one)))
    assert (
        found == any(likeness(runs(" ".join(text)), runs(" ".join(one))) >= NEAR for text in before)
        or not found
    )


def test_a_long_text_with_a_word_changed_is_found_again_and_another_is_not():
    shelf = Shelf()
    shelf.put(runs(STORY))
    assert shelf.near(runs(STORY.replace("word50", "else")))
    assert shelf.near(runs(STORY.upper().replace(" ", ",\n")))
    assert not shelf.near(runs(" ".join(f"other{number}" for number in range(100))))


def test_a_text_at_the_border_is_missed_less_than_once_in_a_thousand():
    # 100 runs, of which 10 differ on either side: 90 shared of 110, a little above the border.
    missed = 0
    for number in range(200):
        shelf = Shelf()
        shelf.put(runs(" ".join(f"{number}w{place}" for place in range(102))))
        missed += not shelf.near(runs(" ".join(f"{number}w{place}" for place in range(10, 112))))
    assert missed <= 1


def test_signs_without_spaces_are_words():
    assert len(runs("猫が庭にいる")) > 1
    assert likeness(runs("猫が庭にいる"), runs("猫が庭にいた")) < 1

"""The demo model's language, by its laws."""

import json
import random

from demo_grammar import ACTIONS, ALL, DEVICES, MEANINGS, ROOMS, Meaning, draw, is_held_out, say
from hypothesis import given
from hypothesis import strategies as st

meanings = st.sampled_from(MEANINGS)


@given(meanings)
def test_every_answer_is_the_meaning_as_json(meaning):
    said = json.loads(meaning.answer())
    assert Meaning(**said) == meaning
    assert "value" not in said or isinstance(said["value"], int)


@given(st.randoms(), st.booleans())
def test_a_drawn_command_is_of_the_side_asked_for(chance, held_out):
    assert is_held_out(draw(chance, held_out=held_out).meaning) == held_out


@given(meanings, st.randoms())
def test_a_wording_speaks_plain_text_and_leaves_nothing_to_fill_in(meaning, chance):
    text = say(meaning, chance)
    assert text == " ".join(text.split())
    assert "{" not in text


@given(meanings, st.randoms())
def test_a_wording_names_its_room_and_its_device(meaning, chance):
    text = say(meaning, chance).lower()
    assert any(word in text for names in DEVICES[meaning.device].names for word in names)
    if meaning.room in set(ROOMS) - {"here", ALL}:
        assert any(word in text for word in ROOMS[meaning.room])


@given(st.integers(), st.booleans())
def test_the_same_chance_says_the_same_commands(seed, held_out):
    one, other = (random.Random(seed) for _ in range(2))  # noqa: S311 - what the law is about
    assert [draw(one, held_out=held_out) for _ in range(5)] == [
        draw(other, held_out=held_out) for _ in range(5)
    ]


def test_a_text_has_one_meaning_and_stands_on_one_side():
    chance = random.Random(7)  # noqa: S311 - the same commands every time
    meant = {}
    for number in range(30_000):
        command = draw(chance, held_out=number % 2 == 0)
        assert meant.setdefault(command.text, command.meaning) == command.meaning


def test_training_sees_every_device_room_action_and_value():
    seen = [meaning for meaning in MEANINGS if not is_held_out(meaning)]
    assert {meaning.device for meaning in seen} == set(DEVICES)
    assert {meaning.room for meaning in seen} == set(ROOMS)
    assert {meaning.action for meaning in seen} == set(ACTIONS)
    assert {meaning.value for meaning in seen} == {None, *range(101)}


def test_a_good_part_of_all_meanings_is_held_out():
    assert 0.1 < sum(map(is_held_out, MEANINGS)) / len(MEANINGS) < 0.3

"""Which answers are worth learning."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.train import sieve as sieves
from slmops.train.answers import Answer
from slmops.train.sieve import DUPLICATE, NEAR_DUPLICATE, OUTVOTED, Sieve, circles, flaw, judge

STORY = "Tom went to the wood. " + " ".join(f"Then {n}s{n} met {n}t{n}." for n in range(20))
answers = st.builds(
    Answer,
    text=st.text(alphabet="ab {}1", max_size=12),
    finish=st.sampled_from(["stop", "length", "refused"]),
    likelihood=st.none() | st.floats(-5, 0),
)


def said(*texts):
    return [Answer(text, "stop") for text in texts]


@given(st.lists(st.lists(answers, max_size=4), max_size=4), st.booleans(), st.booleans())
def test_every_answer_is_judged_once_and_what_is_kept_of_a_question_is_distinct(asked, vote, keep_cut):
    judged = judge(asked, Sieve(vote=vote, keep_cut=keep_cut))
    places = [(each.question, each.number) for each in judged]
    assert sorted(places) == [
        (place, number) for place, some in enumerate(asked) for number in range(len(some))
    ]
    kept = [each for each in judged if each.reason is None]
    texts = Counter((each.question, asked[each.question][each.number].text) for each in kept)
    assert max(texts.values(), default=1) == 1
    if vote:
        assert max(Counter(each.question for each in kept).values(), default=0) <= 1


@given(st.lists(st.lists(answers, max_size=4), max_size=4))
def test_the_likeliest_of_equal_answers_is_kept(asked):
    for each in judge(asked, Sieve()):
        if each.reason == DUPLICATE:
            mine = asked[each.question][each.number].likelihood or 0.0
            kept = [
                k.number for k in judge(asked, Sieve()) if k.question == each.question and k.reason is None
            ]
            assert any((asked[each.question][number].likelihood or 0.0) >= mine for number in kept)


@pytest.mark.parametrize(
    ("answer", "sieve", "reason"),
    [
        (Answer("", "stop"), Sieve(), sieves.EMPTY),
        (Answer(" \n", "length"), Sieve(), sieves.EMPTY),
        (Answer("It was a", "length"), Sieve(), sieves.CUT),
        (Answer("It was a", "length"), Sieve(keep_cut=True), None),
        (Answer("", "refused"), Sieve(), "refused"),
        (Answer("", "prompt too long"), Sieve(), "prompt too long"),
        (Answer("Yes", "stop"), Sieve(least=4), sieves.SHORT),
        (Answer("Yes, it is", "stop"), Sieve(most=4), sieves.LONG),
        (Answer('{"a": 1', "stop"), Sieve(json_only=True), sieves.NO_JSON),
        (Answer('{"a": 1}', "stop"), Sieve(json_only=True), None),
        (Answer("I\u2019m sorry, I cannot do that.", "stop"), Sieve(refusals=False), sieves.REFUSAL),
        (Answer("I'm sorry, I cannot do that.", "stop"), Sieve(), None),
        (Answer("As an AI language model", "stop"), Sieve(refusals=False), sieves.REFUSAL),
        (Answer("Sorry was the hardest word.", "stop"), Sieve(refusals=False), None),
        (Answer("He ran home. " + "xyz" * 20, "stop"), Sieve(), sieves.CIRCLES),
        (Answer(STORY, "stop"), Sieve(), None),
    ],
)  # fmt: skip
def test_an_answer_is_dropped_for_the_first_reason_that_holds(answer, sieve, reason):
    assert flaw(answer, sieve) == reason


def test_what_is_said_again_and_again_in_the_middle_goes_in_circles():
    assert circles(
        "The boat was not happy. The boat was sad. " * 6 + "Then at last it sailed away to the sea."
    )
    assert not circles("no " * 5)
    assert not circles(json.dumps([{"device": "lamp", "room": room} for room in "abcdefghijkl"]))


def test_of_nearly_equal_answers_to_one_question_one_is_kept():
    (judged,) = [judge([said(STORY, STORY.replace("wood", "park"), "Another one.")], Sieve())]
    assert [each.reason for each in judged] == [None, NEAR_DUPLICATE, None]


def test_a_long_answer_that_another_question_got_is_dropped_and_a_short_one_is_not():
    judged = judge([said(STORY), said(STORY), said('{"action": "on"}'), said('{"action": "on"}')], Sieve())
    assert [each.reason for each in judged] == [None, NEAR_DUPLICATE, None, None]


def test_a_vote_counts_json_by_its_value_and_keeps_the_likeliest_of_the_winners():
    given = [
        Answer('{"a": 1, "b": 2}', "stop", likelihood=-2.0),
        Answer('{"a": 3}', "stop", likelihood=-0.1),
        Answer('{"b": 2, "a": 1}', "stop", likelihood=-1.0),
    ]
    reasons = {each.number: each.reason for each in judge([given], Sieve(vote=True))}
    assert reasons == {0: DUPLICATE, 1: OUTVOTED, 2: None}

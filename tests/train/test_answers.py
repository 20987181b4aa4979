"""Questions, answers, and the lines they make."""

import json

from hypothesis import given
from hypothesis import strategies as st

from slmops.build.texts import read_texts
from slmops.train.answers import Answer, Asking, Question, Teacher, distinct, line, openings, seed_of
from slmops.train.lessons import Exchange, Talk, lessons

TALK = ({"role": "user", "content": "Ja?"},)
TEACHER = Teacher("big", digest="sha256:0")


@given(st.text(min_size=1), st.integers(0, 9), st.integers())
def test_the_dice_of_an_answer_hang_on_seed_question_and_number_alone(prompt, number, seed):
    here, there = Question("a, line 1", prompt=prompt), Question("b, line 9", prompt=prompt)
    asking, other = Asking(seed=seed), Asking(seed=seed, answers=4, batch=2, temperature=0.5)
    assert seed_of(asking, here, number) == seed_of(other, there, number)
    assert seed_of(asking, here, number) != seed_of(asking, here, number + 1)
    assert 0 <= seed_of(asking, here, number) < 2**31


@given(st.lists(st.sampled_from(["one", "two", "three"])))
def test_a_question_that_stands_there_again_is_asked_once(prompts):
    found = distinct([Question(str(place), prompt=prompt) for place, prompt in enumerate(prompts)])
    assert [question.prompt for question in found] == list(dict.fromkeys(prompts))


def test_a_prompt_and_a_conversation_of_the_same_words_are_two_questions():
    assert Question("", prompt="Ja?").digest != Question("", messages=TALK).digest


@given(st.text().filter(str.strip), st.text().filter(str.strip))
def test_what_is_written_is_read_by_all_that_read_texts_and_lessons(tmp_path_factory, prompt, answer):
    file = tmp_path_factory.mktemp("lines") / "answers.jsonl"
    asked = [Question("", prompt=prompt), Question("", messages=({"role": "user", "content": prompt},))]
    lines = [line(question, 0, Answer(answer, "stop", 3, -0.5), TEACHER, Asking()) for question in asked]
    file.write_text("".join(one + "\n" for one in lines), encoding="utf-8")

    text, talk = read_texts(file)
    assert text == prompt + answer
    assert talk == [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    exchange, conversation = lessons(file.read_text(encoding="utf-8"), "answers.jsonl")
    assert exchange == Exchange(prompt, answer)
    assert isinstance(conversation, Talk)
    assert list(conversation.messages) == talk


def test_a_line_says_who_wrote_it_and_how_and_not_when():
    said = json.loads(
        line(Question("", prompt="a"), 2, Answer("b", "stop", 1, -0.25), TEACHER, Asking(seed=7))
    )
    assert said["provenance"] == {
        "teacher": "big", "digest": "sha256:0", "max_tokens": 256, "temperature": 0.0, "top_p": 1.0,
        "seed": 7, "number": 2, "finish": "stop", "tokens": 1, "likelihood": -0.25,
    }  # fmt: skip


@given(st.text(alphabet="ab. \n"), st.integers(1, 5))
def test_an_opening_begins_the_text_and_leaves_something_to_be_said(text, words):
    for opening in openings(text, words):
        assert text.lstrip().startswith(opening)
        assert text.lstrip()[len(opening) :].strip()
        assert opening.rstrip()[-1].isalnum()
        assert len(opening.split()) >= words


def test_an_opening_has_as_many_words_as_were_asked_for():
    assert next(openings("Once upon a time there was", 3)) == "Once upon a"
    assert next(openings("Once upon. A time", 2)) == "Once upon. A"
    assert list(openings("Once upon", 2)) == []

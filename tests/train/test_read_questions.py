"""Reading what a teacher is to be asked."""

import json

import pytest

from slmops.errors import DocumentError
from slmops.train.answers import Asking
from slmops.train.read_questions import read_questions

USER = {"role": "user", "content": "One and one?"}
ANSWER = {"role": "assistant", "content": "Two."}


@pytest.fixture
def asked(tmp_path):
    """What stands in a file of these lines."""

    def read(*lines, name="prompts.jsonl", **asking):
        file = tmp_path / name
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_text("\n".join(text), encoding="utf-8")
        return read_questions([file], Asking(**asking))

    return read


def test_a_prompt_a_line(asked):
    found = asked("One?", "", "  Two? ", name="prompts.txt")
    assert [question.prompt for question in found] == ["One?", "Two?"]
    assert found[1].where.endswith("prompts.txt, line 3")


def test_what_answers_a_prompt_already_is_not_asked(asked):
    found = asked(
        {"prompt": "One ", "completion": "two"}, {"prompt": "Three", "expect": "x", "match": "regex"}
    )
    assert [question.said for question in found] == [{"prompt": "One "}, {"prompt": "Three"}]


def test_the_last_answer_of_a_conversation_is_left_out(asked):
    found = asked({"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER, USER], "expect": "no"})
    assert [len(question.messages) for question in found] == [1, 3]


def test_a_plain_prompt_may_be_asked_as_a_turn(asked):
    (question,) = asked("One and one?", name="prompts.txt", chat=True)
    assert question.messages == (USER,)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ({"text": "a"}, r"expected a prompt, got keys \['text'\]"),
        ({"prompt": " "}, "expected a prompt, got ' '"),
        ({"messages": [ANSWER]}, "expected a user's turn"),
        ({"messages": [USER, ANSWER, ANSWER]}, "expected a user's turn"),
        ({"messages": [{"role": "system", "content": ""}]}, "expected a user's turn"),
        ({"messages": [{"role": "user"}]}, "expected role and content"),
    ],
)
def test_a_line_that_is_no_question_is_named(asked, line, told):
    with pytest.raises(DocumentError, match=rf"prompts.jsonl, line 2: .*{told}"):
        asked({"prompt": "a"}, line)


def test_a_file_without_prompts_is_said(asked):
    with pytest.raises(DocumentError, match="no prompts"):
        asked("", "", name="prompts.txt")


def test_the_openings_of_documents(asked):
    text = "One two three four five.\n<|endoftext|>\nSix\n<|endoftext|>\nSeven eight nine ten."
    found = asked(text, name="stories.txt", opening_words=3)
    assert [question.prompt for question in found] == ["One two three", "Seven eight nine"]


def test_a_conversation_has_no_opening(asked):
    with pytest.raises(DocumentError, match="text 1 is a conversation"):
        asked({"messages": [USER]}, opening_words=2)


def test_documents_that_are_too_short_are_said(asked):
    with pytest.raises(DocumentError, match="no document of more than 9 words"):
        asked("One two", name="stories.txt", opening_words=9)

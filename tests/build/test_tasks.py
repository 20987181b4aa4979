"""Items of tasks, how they are scored, and how sure a result is."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.tasks import Result, decide, flips, read_task, wilson
from slmops.errors import DocumentError

ENDING = {"context": "The cat", "choices": ["sat.", "flew to the moon and back."], "answer": 0}
PAIR = {"sentence_good": "She hurt herself.", "sentence_bad": "She hurt himself."}


def lines(*objects):
    return "".join(json.dumps(said) + "\n" for said in objects)


def result(*right):
    return Result("a task", "endings", 0.5, right, None)


def test_the_kind_of_a_task_is_told_by_its_keys():
    assert read_task(lines(ENDING), "a.jsonl").kind == "endings"
    assert read_task(lines(PAIR), "a.jsonl").kind == "sentences"
    assert (
        read_task(lines({"text": "a", "label": "x"}, {"text": "b", "label": "y"}), "a.jsonl").kind == "labels"
    )
    assert read_task(lines({"prompt": "1 + 1 =", "expect": "2"}), "a.jsonl").kind == "answers"


def test_a_question_with_endings_and_a_label_is_an_item_too():
    said = {"question": "Who?", "endings": ["I", "you"], "label": "1"}
    (item,) = read_task(lines(said), "a.jsonl").choices
    assert (item.context, item.choices, item.answer) == ("Who?", ("I", "you"), 1)


def test_a_space_stands_between_context_and_ending_unless_there_is_white_space():
    said = [{**ENDING, "context": "The cat "}, {**ENDING, "choices": [" sat.", "flew."]}, ENDING]
    wholes = [item.wholes[0] for item in read_task(lines(*said), "a.jsonl").choices]
    assert wholes == ["The cat sat."] * 3


def test_a_table_of_texts_and_labels_is_a_task_of_all_its_labels():
    text = 'text,category\nWhere is my card?,card_arrival\n"Lost, again",lost_card\n'
    task = read_task(text, "banking.csv")
    assert [item.choices for item in task.choices] == [("card arrival", "lost card")] * 2
    assert [item.answer for item in task.choices] == [0, 1]
    assert task.chance == 0.5


@pytest.mark.parametrize("between", ["\u2028", "\x0b", "\x85"])
def test_what_only_some_take_for_the_end_of_a_line_ends_no_row(between):
    found = read_task(f"text,label\r\none{between}two,x\r\nthree,y\r\n", "a.csv")
    assert [item.context for item in found.choices] == [f"one{between}two\nLabel:", "three\nLabel:"]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (json.dumps({**ENDING, "answer": 2}), "expected which of the choices, 0 to 1, got 2"),
        (json.dumps({**ENDING, "answer": True}), "expected which of the choices"),
        (json.dumps({**ENDING, "choices": ["one"]}), "expected at least two texts"),
        (json.dumps({**ENDING, "choices": ["one", " "]}), "expected at least two texts"),
        (json.dumps({"choices": ["a", "b"], "answer": 0}), "question: expected text, got None"),
    ],
)
def test_a_bad_line_is_named(second, complaint):
    with pytest.raises(DocumentError, match=rf"tasks/a\.jsonl, line 3: .*{complaint}"):
        read_task(lines(ENDING) + "\n" + second + "\n", "tasks/a.jsonl")


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        ("", "a.jsonl", "a.jsonl holds no items"),
        (lines({"weather": "fine"}), "a.jsonl", "line 1: expected an item of a task"),
        (lines({"text": "a", "label": "x"}), "a.jsonl", "1 labels: that is no choice"),
        ("words,label\na,b\n", "a.csv", "line 2: expected a text under 'text', got words, label"),
        ("text,label\na,b\n,c\n", "a.csv", "line 3: expected a text, got none"),
        ("text\na\n", "a.csv", "line 2: expected a label with the text, got none"),
        (
            lines({"text": "a", "label": "x"}, {"text": "b", "label": " "}),
            "a.jsonl",
            "line 2: expected a label",
        ),
        (lines({"text": "a", "label": True}), "a.jsonl", "expected text or a whole number, got True"),
        ('text,label\n"a,b\n', "a.csv", "line 2: not CSV"),
    ],
)
def test_what_is_no_task_is_refused(text, name, complaint):
    with pytest.raises(DocumentError, match=complaint):
        read_task(text, name)


def test_endings_count_by_byte_and_sentences_by_sum():
    endings = read_task(lines(ENDING), "a.jsonl")
    assert decide(endings, 0, [-8.0, -16.0]) == (False, True)
    sentences = read_task(lines({**PAIR, "sentence_bad": "She hurt himself, and how."}), "a.jsonl")
    assert decide(sentences, 0, [-8.0, -9.0]) == (True, False)


@given(st.sampled_from([math.nan, -math.inf]), st.booleans())
def test_what_is_not_a_number_is_never_right(number, first):
    scores = [number, -1.0] if first else [-1.0, number]
    assert decide(read_task(lines(ENDING), "a.jsonl"), 0, scores) == (False, False)


@given(st.integers(1, 2000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_an_interval_holds_its_accuracy_and_lies_between_none_and_all(counted):
    right, count = counted
    low, high = wilson(right, count)
    assert 0 <= low <= right / count <= high <= 1
    assert low < high


def test_wilson_is_as_in_the_books():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)


def test_more_items_make_a_narrower_interval():
    few, many = wilson(5, 10), wilson(500, 1000)
    assert many[1] - many[0] < few[1] - few[0]


@given(st.lists(st.booleans(), min_size=1))
def test_a_result_has_no_flips_against_itself(right):
    assert flips(result(*right), result(*right)) == (0, 0)


def test_flips_are_counted_each_way():
    assert flips(result(True, True, False, False), result(False, True, True, False)) == (1, 1)

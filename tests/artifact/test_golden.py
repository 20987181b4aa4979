"""Golden prompts: questions whose answers a release stands by."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slmops.artifact import golden
from slmops.artifact.golden import Golden
from slmops.errors import DocumentError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), min_size=1, max_size=2)


def questions(expect, match):
    asked = st.fixed_dictionaries({"prompt": st.text()}) | st.fixed_dictionaries({"messages": MESSAGES})
    return st.builds(
        lambda expect, match, asked, most: Golden(expect, match, max_tokens=most, **asked),
        expect,
        st.sampled_from(match),
        asked,
        st.integers(1, 500),
    )


SAID = st.text(min_size=1).filter(str.strip)
TEXTS = questions(SAID, ["exact", "prefix", "contains"])
LINE = {"prompt": "2+2=", "expect": "4"}


def refused(line):
    with pytest.raises(DocumentError) as told:
        golden.read(f"{json.dumps(LINE)}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    return str(told.value)


@given(st.lists(TEXTS | questions(VALUES.filter(lambda value: value is not None), ["json"]), min_size=1))
@example([Golden("x", prompt="one\u2028two")])
def test_prompts_are_read_as_they_were_written(prompts):
    assert golden.read(golden.render(prompts)) == prompts


def test_a_prompt_may_expect_null():
    asked = [Golden(None, "json", prompt="the answer is")]

    assert golden.read(golden.render(asked)) == asked


def test_empty_lines_between_prompts_do_not_count():
    text = f"\n{json.dumps(LINE)}\n\n  \n{json.dumps(LINE)}"

    assert golden.read(text) == [Golden("4", prompt="2+2=")] * 2


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_no_prompts_are_an_error_and_not_a_pass(text):
    with pytest.raises(DocumentError, match=r"golden\.jsonl holds no golden prompts") as told:
        golden.read(text)

    assert told.value.remedy


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, got list"),
        (LINE | {"answer": 2}, "unknown key 'answer'; known are expect, match"),
        ({"expect": "4"}, "expected either 'prompt' or 'messages'"),
        (LINE | {"messages": []}, "expected either 'prompt' or 'messages'"),
        ({"prompt": "2+2="}, "'expect' is missing"),
        (
            LINE | {"match": "fuzzy"},
            "match: expected one of exact, prefix, contains, regex, json, logprob, got 'fuzzy'",
        ),
        (LINE | {"match": "regex", "expect": "("}, "expect is not a regular expression"),
        (LINE | {"match": "regex", "expect": "(" * 9999}, "expect is not a regular expression"),
        (LINE | {"match": "logprob"}, "a list of numbers of 0 or less"),
        (LINE | {"match": "logprob", "expect": []}, "a list of numbers of 0 or less"),
        (LINE | {"match": "logprob", "expect": [-1, 0.5]}, "a list of numbers of 0 or less"),
        (LINE | {"match": "logprob", "expect": [True]}, "a list of numbers of 0 or less"),
        ('{"prompt": "a", "match": "logprob", "expect": [NaN]}', "a list of numbers of 0 or less"),
        ({"messages": [{"content": "a"}], "match": "logprob", "expect": [-1]}, "expected a prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_refused_naming_file_line_and_key(line, words):
    told = refused(line)

    assert told.startswith("golden.jsonl, line 2: ")
    assert words in told


WRONG = [
    (LINE | {"prompt": None}, "prompt"),
    (LINE | {"prompt": 4}, "prompt"),
    (LINE | {"match": ["exact"]}, "match"),
    (LINE | {"max_tokens": "64"}, "max_tokens"),
    (LINE | {"max_tokens": True}, "max_tokens"),
    ({"messages": "hello", "expect": "4"}, "messages"),
    ({"messages": ["hello"], "expect": "4"}, "messages"),
    ({"messages": [{"role": "user", "content": 4}], "expect": "4"}, "messages"),
]


@pytest.mark.parametrize(("line", "key"), WRONG)
def test_a_value_of_the_wrong_type_is_refused_naming_its_key(line, key):
    assert f"line 2: {key}: expected " in refused(line)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ({"messages": [], "expect": "4"}, "messages"),
        (LINE | {"max_tokens": 0}, "max_tokens"),
        (LINE | {"max_tokens": -1}, "max_tokens"),
    ],
)
def test_a_question_that_asks_nothing_is_refused_naming_its_key(line, key):
    assert key in refused(line)


def test_the_name_given_is_the_name_blamed():
    with pytest.raises(DocumentError, match="mine, line 1: not JSON"):
        golden.read("{", "mine")


@given(TEXTS, st.text())
def test_the_expected_answer_passes_and_ends_do_not_count(asked, blank):
    space = "".join(each for each in blank if each.isspace())

    assert golden.passes(asked, asked.expect)
    assert golden.passes(asked, space + asked.expect + space)


@given(st.text(), st.text())
def test_the_ways_are_what_their_names_say(expect, answer):
    said, wanted = answer.strip(), expect.strip()

    assert golden.passes(Golden(expect, "exact"), answer) == (said == wanted)
    assert golden.passes(Golden(expect, "prefix"), answer) == said.startswith(wanted)
    assert golden.passes(Golden(expect, "contains"), answer) == (wanted in said)


@given(st.text(), st.text())
def test_an_exact_pass_is_a_prefix_and_a_prefix_is_contained(expect, answer):
    exact, prefix, contains = (
        golden.passes(Golden(expect, way), answer) for way in ("exact", "prefix", "contains")
    )

    assert exact <= prefix <= contains


@given(VALUES)
def test_json_is_compared_by_value(value):
    asked = Golden(value, "json")

    assert golden.passes(asked, json.dumps(value))
    assert golden.passes(asked, json.dumps(value, indent=3, ensure_ascii=False))
    assert not golden.passes(asked, json.dumps([value]))


@pytest.mark.parametrize("answer", ["", "four", '{"a": 1', '{"a": 1} or so'])
def test_an_answer_that_is_no_json_does_not_pass_as_json(answer):
    assert not golden.passes(Golden({"a": 1}, "json"), answer)


@pytest.mark.parametrize(("expect", "answer"), [(1, "true"), (False, "0"), ([1], "[true]")])
def test_a_truth_value_is_no_number_in_json(expect, answer):
    assert not golden.passes(Golden(expect, "json"), answer)


def test_an_answer_that_nests_without_end_does_not_pass():
    assert not golden.passes(Golden({"a": 1}, "json"), "[" * 100_000)


def test_a_regular_expression_is_searched_for():
    asked = Golden(r"\b4\b", "regex")

    assert golden.passes(asked, "It is 4.")
    assert not golden.passes(asked, "It is 44.")


def test_what_was_read_as_a_regular_expression_can_be_judged_by():
    (asked,) = golden.read(json.dumps({"prompt": "?", "expect": "a\\ ", "match": "regex"}))

    assert not golden.passes(asked, "b")


def test_the_question_is_the_prompt_or_the_last_thing_said():
    said = [{"role": "user", "content": "hello"}, {"role": "user", "content": "2+2?"}]

    assert Golden("4", prompt="2+2=").question == "2+2="
    assert Golden("4", messages=said).question == "2+2?"


SCORES = st.lists(st.floats(-100, 0), min_size=1, max_size=9)


@given(SCORES)
def test_a_reference_is_read_as_it_was_written_and_is_no_distance_from_itself(scores):
    asked = Golden(scores, "logprob", prompt="so it goes")

    assert golden.read(golden.render([asked])) == [asked]
    assert golden.distance(asked, scores) == 0


@given(SCORES, SCORES)
def test_a_text_of_another_number_of_tokens_is_infinitely_far(scores, found):
    distance = golden.distance(Golden(scores, "logprob", prompt="a"), found)

    assert (distance == math.inf) == (len(scores) != len(found))


@given(SCORES, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_number_is_infinitely_far(scores, strange):
    assert golden.distance(Golden(scores, "logprob", prompt="a"), [*scores[1:], strange]) == math.inf


def test_a_reference_is_no_question_and_no_answer_passes_it():
    asked, reference = Golden("4", prompt="2+2="), Golden([-1.0], "logprob", prompt="a")

    assert golden.questions([asked, reference]) == [asked]
    assert not golden.passes(reference, "[-1.0]")

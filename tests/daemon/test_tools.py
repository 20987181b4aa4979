"""Calls read out of what models write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.tools import CLOSE, OPEN, Call, Calls

ULM = '{"name": "weather", "arguments": {"city": "Ulm"}}'
LLAMA = '{"name": "weather", "parameters": {"city": "Ulm"}}'
WEATHER = Call("weather", '{"city": "Ulm"}')
FRAGMENTS = [
    OPEN,
    CLOSE,
    "<tool",
    "_call>",
    "</",
    "\n",
    " ",
    "Hm. ",
    ULM,
    LLAMA,
    "{",
    "[",
    "]",
    ", ",
    '"',
    "\\",
    '{"name": "clock", "arguments": {"say": "',
    '"}}',
    "é",
]
written = st.lists(st.sampled_from(FRAGMENTS), max_size=12)


def read(*pieces):
    calls, said, found = Calls(["weather", "clock"]), "", []
    for text, some in (*map(calls.push, pieces), calls.flush()):
        said += text
        found += some
    return said, found


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("", "", []),
        ("Just text.\n", "Just text.\n", []),
        (f"{OPEN}\n{ULM}\n{CLOSE}", "", [WEATHER]),
        (f"Let me see.\n{OPEN}\n{ULM}\n{CLOSE}\n", "Let me see.", [WEATHER]),
        (f"{OPEN}{ULM}{CLOSE}\n{OPEN}{ULM}{CLOSE}", "", [WEATHER, WEATHER]),
        (f"{OPEN}{ULM}", "", [WEATHER]),
        (f"{OPEN}{ULM}\n</tool_c", "", [WEATHER]),
        (LLAMA, "", [WEATHER]),
        (f"\n{LLAMA}; {LLAMA}\n", "", [WEATHER, WEATHER]),
        (f"[{ULM}, {LLAMA}]", "", [WEATHER, WEATHER]),
        ('{"name": "clock"}', "", [Call("clock", "{}")]),
        (f'{OPEN}{{"name": "else", "arguments": {{}}}}{CLOSE}', "", [Call("else", "{}")]),
        (f'{OPEN}{{"name": "clock", "arguments": "{{}}"}}{CLOSE}', "", [Call("clock", "{}")]),
        (f"{OPEN}nonsense{CLOSE}", "nonsense", []),
        (f'{OPEN}{{"name": 3}}{CLOSE}', '{"name": 3}', []),
        ('{"name": "else", "parameters": {}}', '{"name": "else", "parameters": {}}', []),
        ('{"answer": 42}', '{"answer": 42}', []),
        (f"{LLAMA} is what I call.", f"{LLAMA} is what I call.", []),
        (
            f'{OPEN}{{"name": "clock", "arguments": {{"x": NaN}}}}{CLOSE}',
            '{"name": "clock", "arguments": {"x": NaN}}',
            [],
        ),
        ("{" * 2000, "{" * 2000, []),
        # A string that nobody ends takes no call away, and nothing of the text but marks.
        (f'{OPEN}{{"name": "x}}{CLOSE} Hm. {OPEN}{ULM}{CLOSE}', '{"name": "x} Hm.', [WEATHER]),
        (f'{OPEN}{{"name": 3, "x": "{CLOSE}"}}{CLOSE}', '{"name": 3, "x": ""}', []),
        (f'{{"answer": "{OPEN}"}} Hm.', '{"answer": ""} Hm.', []),
    ],
)
def test_calls_are_read_as_models_write_them(text, said, calls):
    assert read(text) == (said, calls)
    assert read(*text) == (said, calls)


def test_a_half_of_a_character_in_a_call_can_be_sent_and_no_number_is_infinite():
    text, calls = read('<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>')
    assert (text, [call.arguments for call in calls]) == ("", ['{"a": "?"}'])
    assert read('<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>')[1] == []


def test_what_is_nested_too_deep_is_text():
    assert read("[" * 100_000) == ("[" * 100_000, [])


@given(fragments=written, data=st.data())
def test_however_the_text_was_cut_the_same_is_read(fragments, data):
    text = "".join(fragments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(*pieces) == read(text)


@given(fragments=st.lists(st.sampled_from([*FRAGMENTS[:2], *FRAGMENTS[5:]]), max_size=12))
def test_no_mark_that_was_written_is_text(fragments):
    said, _ = read("".join(fragments))
    assert OPEN not in said
    assert CLOSE not in said


@given(text=st.text(st.characters(exclude_characters="<{[")))
def test_text_without_calls_is_told_to_the_last_character(text):
    assert read(text) == (text, [])


def test_text_is_told_as_soon_as_it_is_no_mark():
    calls = Calls(["weather"])
    assert calls.push("one two <") == ("one two", [])
    assert calls.push("b>") == (" <b>", [])


marked = st.lists(st.sampled_from([OPEN, CLOSE, '"', "\\", "<", "/", ">", "\n", "{", "é"])).map("".join)
strings = st.text() | marked


@pytest.mark.parametrize("form", ["{0}", "{1}{0}{2}", "{1}\n{0}\n{2}\n", "{1}{0}", "Hm. {1}{0}{2}{1}{0}{2}"])
@given(
    arguments=st.dictionaries(strings, strings | st.lists(strings) | st.integers() | st.none()),
    ascii_only=st.booleans(),
    cut=st.integers(1, 30),
)
def test_what_was_called_with_is_what_was_written_whatever_marks_are_in_it(form, arguments, ascii_only, cut):
    call = json.dumps({"name": "clock", "arguments": arguments}, ensure_ascii=ascii_only)
    written = form.format(call, OPEN, CLOSE)
    said, calls = read(*(written[at : at + cut] for at in range(0, len(written), cut)))
    assert said == ("Hm." if form.startswith("Hm.") else "")
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("clock", arguments)] * max(
        1, form.count("{0}")
    )


def test_a_call_is_told_as_soon_as_it_is_whole_whatever_it_speaks_of():
    calls = Calls(["weather"])
    xml = '{"name": "weather", "arguments": {"city": "</tool_call>"}}'
    assert calls.push(f"{OPEN}{xml}") == ("", [])
    assert calls.push(f"{CLOSE} So.") == (" So.", [Call("weather", '{"city": "</tool_call>"}')])

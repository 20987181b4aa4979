"""Turns of a conversation, tools and forms of an answer, as requests say them."""

import json

import pytest

from slmops.daemon.api import ChatRequest, parse
from slmops.daemon.refusal import RefusedError

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
USER = {"role": "user", "content": "hi"}


def chat(**said):
    return parse(ChatRequest, json.dumps({"messages": [USER], **said}).encode())


def plain(*messages):
    return [message.plain for message in chat(messages=list(messages)).messages]


def test_a_developer_is_to_templates_what_a_system_is():
    assert plain({"role": "developer", "content": "be brief"}) == [{"role": "system", "content": "be brief"}]


def test_calls_and_their_answers_are_told_to_templates_as_values():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    called, answered = plain(
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
    )
    assert called["content"] == ""
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Ulm"}}
    assert answered == {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}


def test_an_answer_may_be_given_back_with_all_that_openais_client_says_of_it():
    empty = dict.fromkeys(["refusal", "audio", "function_call"], None)
    function = {"name": "weather", "arguments": "{}", "parsed_arguments": {}}
    call = {"id": "c1", "type": "function", "function": function}
    said = {"role": "assistant", "content": "a", "annotations": [], "parsed": {"a": 1}, "tool_calls": [call]}
    assert plain(said | empty) == plain({"role": "assistant", "content": "a", "tool_calls": [call]})


@pytest.mark.parametrize("field", ["refusal", "audio", "function_call", "annotations"])
def test_what_such_a_field_would_say_is_refused_and_not_left_out(field):
    with pytest.raises(RefusedError) as refused:
        chat(messages=[{"role": "assistant", "content": "a", field: [{"id": "x"}]}])
    assert refused.value.param == f"messages[0].{field}"


@pytest.mark.parametrize("written", ["{city", '{"city": NaN}', '{"city": "\\ud800"}'])
def test_arguments_that_are_no_json_stay_as_they_were_written(written):
    call = {"id": "c", "function": {"name": "weather", "arguments": written}}
    (said,) = plain({"role": "assistant", "tool_calls": [call]})
    assert said["tool_calls"][0]["function"]["arguments"] == written


def test_a_function_without_parameters_takes_an_object_without_properties():
    (tool,) = chat(tools=[CLOCK]).offered
    assert tool.plain["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("choice", "offered", "demanded"),
    [
        (None, ["weather", "clock"], []),
        ("auto", ["weather", "clock"], []),
        ("none", [], []),
        ("required", ["weather", "clock"], ["weather", "clock"]),
        ({"type": "function", "function": {"name": "clock"}}, ["weather", "clock"], ["clock"]),
    ],
)
def test_the_choice_says_which_tools_may_and_which_must_be_called(choice, offered, demanded):
    asked = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [tool.function.name for tool in asked.offered] == offered
    assert [tool.function.name for tool in asked.demanded] == demanded


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, r"tools\[0\]\.function\.name"),
        ({"tools": [{"type": "retrieval"}]}, r"tools\[0\]"),
        ({"tools": [WEATHER, WEATHER]}, "tools: two"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice: no",
        ),
        ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, r"response_format\.type"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "tools": [WEATHER]}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": "start: /a/"}, "response_format"),
        ({"tools": [WEATHER], "grammar": "start: /a/"}, "grammar"),
        ({"messages": [{"role": "assistant"}]}, "content or tool_calls"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(said, named):
    with pytest.raises(RefusedError, match=named) as refused:
        chat(**said)
    assert refused.value.status == 400

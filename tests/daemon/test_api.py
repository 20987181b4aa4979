"""What may be asked, and what is said of what may not."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.api import (
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    EmbeddingsRequest,
    parse,
    parse_leniently,
)
from slmops.daemon.refusal import RefusedError, error_body
from slmops.daemon.sampling import Sampling

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN = {"model": "m", "prompt": "hi"}


def chat(**changes):
    return parse(ChatRequest, json.dumps(CHAT | changes).encode())


def plain(**changes):
    return parse(CompletionRequest, json.dumps(PLAIN | changes).encode())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"logprobs": -1}, "logprobs"),
        ({"min_p": 1.5}, r"^min_p"),
        ({"frequency_penalty": 2.5}, r"^frequency_penalty"),
        ({"presence_penalty": "no"}, r"^presence_penalty"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"grammar": ""}, r"^grammar"),
        ({"cache_prompt": 1}, r"^cache_prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"metadata": {}}, "metadata"),
        ({"store": True}, "store"),
        ({"n": 2}, r"^n"),
        ({"temperature": 2.1}, r"^temperature"),
        ({"temperature": "hot"}, r"^temperature"),
        ({"top_p": 0}, r"^top_p"),
        ({"top_k": -1}, r"^top_k"),
        ({"max_tokens": -1}, r"^max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, r"^stop"),
        ({"stop": ["a"] * 5}, r"^stop"),
        ({"stop": ["a", ""]}, r"^stop"),
        ({"stream": "yes"}, r"^stream"),
        ({"stream": True, "stream_options": {"chunks": 1}}, "chunks"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": 2**64}, r"^seed"),
    ],
)
@pytest.mark.parametrize("ask", [chat, plain])
def test_what_will_not_happen_is_refused_by_name(ask, changes, named):
    with pytest.raises(RefusedError, match=named) as refused:
        ask(**changes)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("ask", "changes", "named"),
    [
        (plain, {"logprobs": 6}, "logprobs"),
        (plain, {"logprobs": True}, "logprobs"),
        (plain, {"stream": True, "echo": True}, "echo"),
        (plain, {"top_logprobs": 2}, "top_logprobs"),
        (plain, {"max_tokens": 0, "echo": False}, "max_tokens"),
        (chat, {"logprobs": 1}, "logprobs"),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (chat, {"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        (chat, {"echo": True}, "echo"),
        (chat, {"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
def test_scores_that_will_not_be_told_are_refused_by_name(ask, changes, named):
    with pytest.raises(RefusedError, match=named) as refused:
        ask(**changes)
    assert refused.value.status == 400


def test_scores_may_be_asked_for_of_a_stream_too():
    assert plain(stream=True, logprobs=2).alternatives == 2
    assert chat(stream=True, logprobs=True).alternatives == 0


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "messages"),
        ([{"role": "king", "content": "hi"}], r"messages\[0\]\.role"),
        ([{"role": "user"}], r"messages\[0\].*content"),
        ([{"role": "user", "content": "hi", "tool_calls": []}], "tool_calls"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], r"messages\[0\]"),
    ],
)
def test_messages_that_cannot_be_read_are_refused_by_place(messages, named):
    with pytest.raises(RefusedError, match=named):
        chat(messages=messages)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"prompt": "\xff"}', rb'{"prompt": "\ud800"}'])
def test_a_body_that_is_not_json_is_refused(body):
    with pytest.raises(RefusedError, match="not JSON") as refused:
        parse(CompletionRequest, body)
    assert refused.value.reason == "invalid_json"


@pytest.mark.parametrize("body", [rb'{"prompt": "\ud83d"}', b'{"prompt": "'])
def test_a_body_that_ends_too_soon_may_also_hold_half_a_character(body):
    with pytest.raises(RefusedError, match="ends too soon, or holds half a surrogate pair"):
        parse(CompletionRequest, body)


def test_a_message_may_come_in_parts():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    (message,) = chat(messages=[{"role": "user", "content": parts}]).messages
    assert message.plain == {"role": "user", "content": "one two"}


def test_nulls_are_as_if_not_said():
    optional = ["model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "n", "user"]
    assert plain(**dict.fromkeys(optional)) == plain(model=None)


def test_without_a_word_from_anybody_the_choice_is_greedy_and_short():
    assert plain().sampling({}) == Sampling(0.0, 0, 1.0, None)
    assert plain().limit({}) == 128


def test_the_release_has_its_say_and_the_request_the_last():
    defaults = {"temperature": 0.7, "top_p": 0.9, "top_k": 40.0, "max_tokens": 64.0}
    assert plain().sampling(defaults) == Sampling(0.7, 40, 0.9, None)
    asked = plain(temperature=0, top_k=0, top_p=1, seed=-1, max_tokens=3)
    assert asked.sampling(defaults) == Sampling(0.0, 0, 1.0, 2**64 - 1)
    assert (plain().limit(defaults), asked.limit(defaults)) == (64, 3)


def test_the_newer_name_for_the_limit_counts():
    assert chat(max_completion_tokens=5, max_tokens=9).limit({}) == 5


@pytest.mark.parametrize(("stop", "stops"), [(None, ()), ("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_stop_may_be_one_or_several(stop, stops):
    assert plain(stop=stop).stops == stops


def test_errors_have_openais_shape():
    error = error_body(429, "full", "queue_full")["error"]
    assert error == {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    kinds = {status: error_body(status, "no")["error"]["type"] for status in (401, 403, 404, 408, 500, 503)}
    assert kinds == {
        401: "authentication_error",
        403: "permission_error",
        404: "invalid_request_error",
        408: "invalid_request_error",
        500: "server_error",
        503: "server_error",
    }


@pytest.mark.parametrize(("said", "texts"), [("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_one_text_or_several_may_be_labelled(said, texts):
    assert parse(ClassifyRequest, json.dumps({"input": said}).encode()).texts == texts


@pytest.mark.parametrize("said", ["", " ", [], ["a", ""], ["a"] * 257, 3, {"text": "a"}])
def test_what_is_no_text_to_label_is_refused_naming_the_field(said):
    with pytest.raises(RefusedError, match="input") as refused:
        parse(ClassifyRequest, json.dumps({"input": said}).encode())
    assert (refused.value.status, refused.value.reason) == (400, "invalid_value")


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"max_tokens": "x"}, "max_tokens"),
        ({"colour": 1}, "colour"),
        ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"stream_options": {}}, "stream_options"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"messages": 3}, "messages"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ],
)
def test_the_field_that_is_to_blame_is_named_by_its_place(said, param):
    with pytest.raises(RefusedError) as refused:
        chat(**said)
    assert refused.value.param == param


def test_a_field_that_is_missing_is_to_blame_too():
    with pytest.raises(RefusedError) as refused:
        parse(ChatRequest, b"{}")
    assert refused.value.param == "messages"


def test_a_lenient_reading_leaves_out_what_it_does_not_know_and_says_so():
    turn = {"role": "user", "content": "hi", "colour": "red"}
    body = json.dumps({"messages": [turn], "store": True, "metadata": {"a": 1}, "seed": 3}).encode()
    asked, ignored = parse_leniently(ChatRequest, body)
    assert asked == chat(model=None, seed=3)
    assert sorted(ignored) == ["messages[0].colour", "metadata", "store"]


def test_a_lenient_reading_is_no_less_strict_about_values():
    body = json.dumps(CHAT | {"store": True, "seed": "x"}).encode()
    with pytest.raises(RefusedError) as refused:
        parse_leniently(ChatRequest, body)
    assert refused.value.param == "seed"
    with pytest.raises(RefusedError):
        parse_leniently(ChatRequest, json.dumps(CHAT | {f"x{at}": 0 for at in range(40)}).encode())


def test_a_body_that_is_nested_too_deep_is_refused_however_it_is_read():
    body = json.dumps(CHAT).encode()[:-1] + b', "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    with pytest.raises(RefusedError):
        parse_leniently(ChatRequest, body)


@given(names=st.lists(st.text(min_size=1), max_size=5, unique=True))
def test_whatever_a_field_is_called_it_is_left_out_or_refused(names):
    body = json.dumps(dict.fromkeys(names, 1) | CHAT).encode()
    with suppress(RefusedError):
        asked, ignored = parse_leniently(ChatRequest, body)
        assert len(ignored) == len(set(names) - set(ChatRequest.__struct_fields__))
        assert asked.messages == chat().messages


def test_what_was_read_is_read_again_the_same():
    for asked in (chat(seed=1, stop=["a"], logit_bias={"3": 1.5}), plain(grammar="start: /a/", logprobs=0)):
        assert parse(type(asked), msgspec.json.encode(asked)) == asked


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [("a", "a", None), (["a"], "a", None), ([1, 2], "", [1, 2]), ([7], "", [7])],
)
def test_a_prompt_may_be_a_text_or_token_ids(prompt, text, ids):
    asked = plain(prompt=prompt)
    assert (asked.text, asked.ids) == (text, ids)


@pytest.mark.parametrize("prompt", [[], ["a", "b"], ["a", 1], [-1], [1.5], [[1]], {}, [True]])
def test_what_is_no_prompt_is_refused_naming_the_field(prompt):
    with pytest.raises(RefusedError, match="prompt"):
        plain(prompt=prompt)


@pytest.mark.parametrize(
    ("said", "inputs"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_vectors_may_be_wanted_of_texts_or_of_token_ids(said, inputs):
    assert parse(EmbeddingsRequest, json.dumps({"input": said}).encode()).inputs == inputs


@pytest.mark.parametrize("said", ["", [], [""], [[]], ["a", 1], [1, [1]], ["a"] * 257, None])
def test_what_has_no_vector_is_refused_naming_the_field(said):
    with pytest.raises(RefusedError, match="input"):
        parse(EmbeddingsRequest, json.dumps({"input": said}).encode())


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (lambda: plain(prompt=[9]), "prompt"),
        (lambda: plain(logit_bias={"9": 1}), "logit_bias"),
        (lambda: chat(logit_bias={"12": 1}), "logit_bias"),
        (lambda: parse(EmbeddingsRequest, b'{"input": [[1], [9]]}'), "input"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused_naming_the_field(asked, param):
    asked().within(13)
    with pytest.raises(RefusedError, match="below 9") as refused:
        asked().within(9)
    assert refused.value.param == param


def test_how_to_choose_is_said_with_all_its_words():
    asked = chat(min_p=0.1, frequency_penalty=1, presence_penalty=-1, logit_bias={"3": 4.5})
    assert asked.sampling({}) == Sampling(
        min_p=0.1, frequency_penalty=1.0, presence_penalty=-1.0, logit_bias=((3, 4.5),)
    )

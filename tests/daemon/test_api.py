"""What may be asked, and the shapes of the answers."""

import json

import pytest

from slmops.daemon.api import (
    Answer,
    ChatRequest,
    ClassifyRequest,
    CompletionRequest,
    error_body,
    labelled,
    parse,
    usage,
)
from slmops.daemon.refusal import RefusedError
from slmops.daemon.sample import Sampling

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
        ({"stream": True, "logprobs": True}, "logprobs"),
        ({"n": 2}, r"\$\.n"),
        ({"temperature": 2.1}, r"\$\.temperature"),
        ({"temperature": "hot"}, r"\$\.temperature"),
        ({"top_p": 0}, r"\$\.top_p"),
        ({"top_k": -1}, r"\$\.top_k"),
        ({"max_tokens": -1}, r"\$\.max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, r"\$\.stop"),
        ({"stop": ["a"] * 5}, r"\$\.stop"),
        ({"stop": ["a", ""]}, r"\$\.stop"),
        ({"stream": "yes"}, r"\$\.stream"),
        ({"stream": True, "stream_options": {"chunks": 1}}, "chunks"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": 2**64}, r"\$\.seed"),
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
        (plain, {"stream": True, "logprobs": 0}, "logprobs"),
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


def test_no_scores_may_be_asked_for_of_a_stream_too():
    assert plain(stream=True, echo=False, logprobs=None).alternatives is None
    assert chat(stream=True, logprobs=False).alternatives is None


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "messages"),
        ([{"role": "king", "content": "hi"}], r"messages\[0\]\.role"),
        ([{"role": "user"}], r"content.*messages\[0\]"),
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


def test_a_stream_speaks_of_usage_only_when_asked():
    silent = Answer(chat=True, id="1", created=0, release="m:1", digest="")
    assert b"usage" not in b"".join([silent.piece("a"), *silent.closing("stop", usage(1, 2))])
    asked = Answer(chat=True, id="1", created=0, release="m:1", digest="", usage_wanted=True)
    *_, last, done = asked.closing("stop", usage(1, 2))
    said = json.loads(last.removeprefix(b"data: "))
    assert said["choices"] == []
    assert said["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert done == b"data: [DONE]\n\n"


def test_errors_have_openais_shape():
    error = error_body(429, "full", "queue_full")["error"]
    assert error == {"message": "full", "type": "rate_limit_error", "param": None, "code": "queue_full"}


@pytest.mark.parametrize(("said", "texts"), [("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_one_text_or_several_may_be_labelled(said, texts):
    assert parse(ClassifyRequest, json.dumps({"input": said}).encode()).texts == texts


@pytest.mark.parametrize("said", ["", " ", [], ["a", ""], ["a"] * 257, 3, {"text": "a"}])
def test_what_is_no_text_to_label_is_refused_naming_the_field(said):
    with pytest.raises(RefusedError, match="input") as refused:
        parse(ClassifyRequest, json.dumps({"input": said}).encode())
    assert (refused.value.status, refused.value.reason) == (400, "invalid_value")


def test_the_likeliest_label_is_named_and_each_has_its_score():
    said = json.loads(labelled(["no", "yes"], [[0.25, 0.75], [1.0, 0.0]], release="m:1", digest="", tokens=9))
    assert [(each["index"], each["label"], each["scores"]) for each in said["data"]] == [
        (0, "yes", {"no": 0.25, "yes": 0.75}),
        (1, "no", {"no": 1.0, "yes": 0.0}),
    ]
    assert said["model"] == "m:1"
    assert said["usage"] == {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}

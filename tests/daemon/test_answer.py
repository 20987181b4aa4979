"""The shapes of answers."""

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.answer import DONE, Answer, Telling, embedded, labelled, usage
from slmops.daemon.scores import Scored
from slmops.daemon.tools import Calls

CHAT = Answer(chat=True, id="chatcmpl-0123456789abcdef", created=7, release="m:1", digest="sha256:00")
PLAIN = Answer(chat=False, id="cmpl-1", created=7, release="m:1", digest="")
ULM = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
COUNTS = {
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "total_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def told(answer, *pieces, stream, finish="stop", **options):
    """What a client reads: the chunks of a stream, or one body."""
    telling = Telling(answer, stream=stream, **options)
    said = b"".join(telling.add(*piece) for piece in pieces) + telling.end(finish, usage(1, 2))
    if not stream:
        return json.loads(said)
    events = said.split(b"\n\n")
    assert events[-2:] == [DONE.strip(), b""]
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def scored(text):
    return Scored(text, -0.5, ((text, -0.5), ("x", -1.0)))


def test_a_stream_speaks_of_usage_only_when_asked():
    silent = Answer(chat=True, id="1", created=0, release="m:1", digest="")
    assert b"usage" not in b"".join([silent.piece("a"), *silent.closing("stop", usage(1, 2))])
    asked = Answer(chat=True, id="1", created=0, release="m:1", digest="", usage_wanted=True)
    *_, last, done = asked.closing("stop", usage(1, 2))
    said = json.loads(last.removeprefix(b"data: "))
    assert (said["choices"], said["usage"], done) == ([], COUNTS, DONE)


def test_the_counts_tell_what_had_been_read_before():
    assert usage(5, 2, 4)["prompt_tokens_details"] == {"cached_tokens": 4}


def test_who_speaks_is_told_once_and_first():
    first, *others = told(CHAT, ("a",), ("b",), stream=True)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("role" in each["choices"][0]["delta"] for each in others)
    assert "delta" not in told(PLAIN, ("a",), stream=True)[0]["choices"][0]


def test_an_echo_stands_before_the_answer():
    assert told(PLAIN, ("b",), stream=False, echoed="a")["choices"][0]["text"] == "ab"


@given(pieces=st.lists(st.text()))
def test_a_stream_joins_to_the_answer_in_one_piece(pieces):
    chunks = told(PLAIN, *((piece,) for piece in pieces), stream=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "".join(pieces)
    whole = told(PLAIN, *((piece,) for piece in pieces), stream=False)
    assert whole["choices"][0]["text"] == "".join(pieces)
    assert whole["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("answer", [CHAT, PLAIN])
def test_scores_of_a_stream_join_to_those_in_one_piece(answer):
    pieces = [("on", (scored("on"),)), ("", (scored(" "),)), (" it", (scored("it"),))]
    whole = told(answer, *pieces, stream=False, scores=True)["choices"][0]["logprobs"]
    chunks = [each["choices"][0]["logprobs"] for each in told(answer, *pieces, stream=True, scores=True)]
    for column in whole:
        assert [each for chunk in chunks if chunk for each in chunk[column]] == whole[column]
    if answer is PLAIN:
        assert whole["text_offset"] == [0, 2, 3]


def test_scores_are_told_only_where_they_are_wanted():
    for stream in (False, True):
        said = told(PLAIN, ("a", (scored("a"),)), stream=stream)
        assert (said[0] if stream else said)["choices"][0]["logprobs"] is None


def test_calls_are_told_in_one_piece():
    said = told(CHAT, (f"Let me see.\n{ULM}\n{ULM}",), stream=False, calls=Calls(["weather"]))["choices"][0]
    assert said["finish_reason"] == "tool_calls"
    assert said["message"]["content"] == "Let me see."
    first, second = said["message"]["tool_calls"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Ulm"}'}
    assert first["id"] != second["id"]


def test_a_message_of_calls_alone_has_no_content():
    said = told(CHAT, (ULM,), stream=False, calls=Calls(["weather"]))["choices"][0]
    assert said["message"]["content"] is None


def test_calls_of_a_stream_are_those_in_one_piece():
    whole = told(CHAT, ("Hm. " + ULM + ULM,), stream=False, calls=Calls(["weather"]))["choices"][0]
    chunks = told(CHAT, *(tuple("Hm. " + ULM + ULM)), stream=True, calls=Calls(["weather"]))
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["message"]["content"] == "Hm."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call.pop("index") for call in calls] == [0, 1]
    assert calls == whole["message"]["tool_calls"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_that_was_cut_says_so_whatever_it_called():
    said = told(CHAT, (ULM,), stream=False, finish="length", calls=Calls(["weather"]))["choices"][0]
    assert (said["finish_reason"], len(said["message"]["tool_calls"])) == ("length", 1)


def test_the_likeliest_label_is_named_and_each_has_its_score():
    said = json.loads(labelled(["no", "yes"], [[0.25, 0.75], [1.0, 0.0]], release="m:1", digest="", tokens=9))
    assert [(each["index"], each["label"], each["scores"]) for each in said["data"]] == [
        (0, "yes", {"no": 0.25, "yes": 0.75}),
        (1, "no", {"no": 1.0, "yes": 0.0}),
    ]
    assert said["model"] == "m:1"
    assert said["usage"] == usage(9, 0)


@given(vectors=st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), max_size=3))
def test_a_vector_is_the_same_however_it_is_written(vectors):
    plain = json.loads(embedded(vectors, release="m:1", tokens=4))
    packed = json.loads(embedded(vectors, release="m:1", tokens=4, packed=True))
    assert [each["embedding"] for each in plain["data"]] == vectors
    read = [struct.unpack("<3f", base64.b64decode(each["embedding"])) for each in packed["data"]]
    assert [list(each) for each in read] == vectors
    assert plain["usage"] == {"prompt_tokens": 4, "total_tokens": 4}

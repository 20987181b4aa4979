"""What an operator and a device say to each other."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops import wire
from slmops.errors import DeviceError, ProtocolError
from slmops.wire import Reply, Request

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SAID = st.dictionaries(st.text(), VALUES, max_size=4)
REPLIES = st.builds(Reply, st.sampled_from(["note", "done", "failed"]), SAID)
NOISE = st.text().filter(lambda text: wire.MARK not in text and "\n" not in text)


@given(st.text(min_size=1), SAID)
def test_a_request_is_read_as_it_was_said(verb, said):
    assert wire.parse_request(wire.render_request(Request(verb, said))) == Request(verb, said)


@given(st.text(), SAID)
def test_a_request_is_one_line_whatever_it_says(verb, said):
    line = wire.render_request(Request(verb, said))

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@given(REPLIES)
def test_a_reply_is_read_as_it_was_said(reply):
    assert wire.parse_reply(wire.render_reply(reply)) == reply


@given(REPLIES)
def test_a_reply_is_one_ascii_line_whatever_it_says(reply):
    line = wire.render_reply(reply)

    assert line.isascii()
    assert line.index("\n") == len(line) - 1


@given(NOISE)
def test_noise_never_parses(noise):
    assert wire.parse_reply(noise) is None


@given(NOISE, REPLIES)
def test_a_prompt_left_on_the_line_does_not_hide_the_reply(noise, reply):
    assert wire.parse_reply(noise + wire.render_reply(reply)) == reply


@given(st.lists(REPLIES | NOISE))
def test_replies_come_out_of_a_noisy_stream_in_order(stream):
    told = "".join(wire.render_reply(each) if isinstance(each, Reply) else each + "\n" for each in stream)

    heard = [wire.parse_reply(line) for line in told.split("\n")]

    assert [reply for reply in heard if reply is not None] == [
        each for each in stream if isinstance(each, Reply)
    ]


@pytest.mark.parametrize(
    "rest", ["", "{", "3", "null", '"kind"', "[]", "{}", '{"kind": "done"}', '{"said": {}}', "\x1e"]
)
def test_a_marked_line_that_is_no_reply_is_noise(rest):
    assert wire.parse_reply(wire.MARK + rest) is None


@pytest.mark.parametrize("rest", ['{"kind": 3, "said": {}}', '{"kind": "done", "said": [1]}'])
def test_a_reply_of_the_wrong_types_is_noise(rest):
    assert wire.parse_reply(wire.MARK + rest) is None


def test_a_device_that_nests_without_end_is_noise():
    assert wire.parse_reply(wire.MARK + "[" * 100_000) is None


@given(st.binary(max_size=40).filter(lambda line: not line.strip().startswith(b"{")))
def test_what_is_no_request_is_refused_and_shown(line):
    with pytest.raises(DeviceError, match="not a request: b"):
        wire.parse_request(line)


@pytest.mark.parametrize("missing", ["verb", "said", "protocol"])
def test_a_request_that_lacks_a_part_is_refused(missing):
    whole = {"verb": "hello", "said": {}, "protocol": wire.PROTOCOL}
    del whole[missing]

    with pytest.raises(DeviceError, match="not a request"):
        wire.parse_request(json.dumps(whole).encode())


@pytest.mark.parametrize("change", [{"said": [1]}, {"said": None}, {"verb": ["hello"]}])
def test_a_request_of_the_wrong_types_is_refused(change):
    whole = {"verb": "hello", "said": {}, "protocol": wire.PROTOCOL} | change

    with pytest.raises(DeviceError, match="not a request"):
        wire.parse_request(json.dumps(whole).encode())


@pytest.mark.parametrize("protocol", [wire.LEAST - 1, wire.PROTOCOL + 1, -1, 1 << 70])
def test_a_protocol_that_is_not_spoken_here_is_refused_naming_both(protocol):
    line = wire.render_request(Request("status", protocol=protocol))

    with pytest.raises(ProtocolError, match=f"speaks protocols? {wire.PROTOCOL}.*, the operator {protocol}"):
        wire.parse_request(line)


def test_a_greeting_is_understood_in_any_protocol():
    greeting = Request("hello", protocol=wire.PROTOCOL + 40)

    assert wire.parse_request(wire.render_request(greeting)) == greeting


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_as_a_request_is_one_or_is_refused(line):
    with contextlib.suppress(DeviceError):
        assert isinstance(wire.parse_request(line), Request)


@given(
    st.fixed_dictionaries(
        {"verb": st.text() | VALUES, "said": SAID | VALUES, "protocol": st.integers() | VALUES}
    )
)
def test_a_request_of_any_parts_is_one_or_is_refused(whole):
    with contextlib.suppress(DeviceError):
        wire.body_length(wire.parse_request(json.dumps(whole).encode()))


@given(st.text() | VALUES.map(json.dumps))
def test_whatever_a_device_says_is_a_reply_or_noise(line):
    assert isinstance(wire.parse_reply(wire.MARK + line), Reply | None)


@given(st.integers(0, 1 << 50))
def test_a_length_says_how_many_bytes_follow(length):
    assert wire.body_length(Request("receive", {"length": length})) == length
    assert wire.body_length(Request("receive")) == 0


@pytest.mark.parametrize("length", [-1, 1.5, "7", True, None, [1]])
def test_a_length_that_is_no_number_of_bytes_is_refused(length):
    with pytest.raises(DeviceError, match="receive: expected a length in bytes"):
        wire.body_length(Request("receive", {"length": length}))


@given(st.integers(0, 9), st.integers(0, 9))
def test_two_sides_share_the_newest_protocol_that_both_speak(least, more):
    both = set(range(wire.LEAST, wire.PROTOCOL + 1)) & set(range(least, least + more + 1))

    assert wire.shared(least, least + more) == max(both, default=None)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3), st.lists(st.integers(0, 30), min_size=1, max_size=3)
)
def test_a_version_is_newer_by_its_numbers(one, other):
    assert wire.newer(".".join(map(str, one)), ".".join(map(str, other))) == (one > other)


def test_a_word_that_was_not_utf_8_on_the_command_line_can_be_said():
    word = b"caf\xe9".decode(errors="surrogateescape")

    assert wire.parse_request(wire.render_request(Request("ask", {"prompt": word}))).said["prompt"] == word

import json
import socket
import threading

import pytest

from slmops.device import talk
from slmops.errors import DeviceError

BODY = {"prompt": "One and one?"}


def http(body, status="200 OK"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def chunk(text):
    return f"{len(text):x}\r\n{text}\r\n".encode()


def event(said):
    return chunk(f"data: {said if isinstance(said, str) else json.dumps(said)}\n\n")


def piece(text):
    return event({"choices": [{"text": text}]})


OPEN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = event("[DONE]") + b"0\r\n\r\n"


@pytest.fixture
def answering(places):
    """Let one connection to the daemon's port be answered with these bytes, then closed."""
    threads = []

    def serve(listener, data):
        with listener, listener.accept()[0] as client:
            with client.makefile("rb") as request:
                length = 0
                while (line := request.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                request.read(length)
            client.sendall(data)

    def answer(data):
        listener = socket.create_server(("127.0.0.1", 0))
        places.port.write_text(f"{listener.getsockname()[1]}\n")
        threads.append(threading.Thread(target=serve, args=(listener, data)))
        threads[-1].start()
        return places

    yield answer
    for thread in threads:
        thread.join()


def test_a_daemon_that_does_not_listen_yet_is_not_ready(places):
    assert talk.port(places) is None
    assert talk.ready(places) is None
    with pytest.raises(DeviceError, match="does not listen yet"):
        talk.scores(places, BODY, 1.0)


def test_a_daemon_that_listened_once_is_not_ready(places):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places.port.write_text(f"{listener.getsockname()[1]}\n")

    assert talk.ready(places) is None
    with pytest.raises(DeviceError, match="did not answer"):
        talk.scores(places, BODY, 1.0)


def test_a_torn_port_file_is_no_port(places):
    places.port.write_text("")

    assert talk.port(places) is None


def test_a_ready_daemon_says_what_it_serves(answering):
    assert talk.ready(answering(http({"ready": True, "digest": "sha256:00"})))["digest"] == "sha256:00"


@pytest.mark.parametrize(
    "answer",
    [
        http({"ready": True}, "503 Service Unavailable"),
        http({"ready": False}),
        http({"ready": "yes"}),
        http({}),
        http(b"not json"),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"",
    ],
)
def test_whatever_does_not_say_ready_is_not(answering, answer):
    assert talk.ready(answering(answer)) is None


def test_a_stranger_on_the_port_is_not_a_ready_daemon(answering):
    assert talk.ready(answering(http(7))) is None


def said(text, chat):
    return event({"choices": [{"delta": {"content": text}} if chat else {"text": text}]})


USAGE = event({"choices": [], "usage": {"completion_tokens": 7}})


@pytest.mark.parametrize("chat", [True, False])
def test_an_answer_is_its_text_in_either_form_and_has_the_tokens_that_were_counted(answering, chat):
    heard = talk.timed(answering(OPEN + said("tw", chat) + said("o", chat) + USAGE + CLOSE), "/", BODY, 5.0)

    assert (heard.text, heard.tokens) == ("two", 7)
    assert 0 < heard.first <= heard.seconds


def test_an_empty_answer_took_as_long_as_its_first_word(answering):
    heard = talk.timed(answering(OPEN + said(None, chat=True) + CLOSE), "/", BODY, 5.0)

    assert (heard.text, heard.tokens) == ("", 0)
    assert heard.first == heard.seconds


def test_the_scores_of_a_text_are_what_the_daemon_tells(answering):
    told = {"choices": [{"text": "a b", "logprobs": {"token_logprobs": [None, -1.5]}}]}

    assert talk.scores(answering(http(told)), BODY, 5.0) == [None, -1.5]


def test_a_daemon_that_ignores_the_question_for_scores_has_told_none(answering):
    with pytest.raises(DeviceError, match="told no log-probabilities"):
        talk.scores(answering(http({"choices": [{"text": "a", "logprobs": None}]})), BODY, 5.0)


@pytest.mark.parametrize("said", [{"error": {"message": "too long"}}, {"error": "too long"}])
def test_a_refusal_is_told_in_the_daemons_words(answering, said):
    with pytest.raises(DeviceError, match=r"refused \(400\): too long"):
        talk.scores(answering(http(said, "400 Bad Request")), BODY, 5.0)


def test_of_a_refusal_without_end_the_beginning_is_told(answering):
    with pytest.raises(DeviceError) as refused:
        talk.scores(answering(http({"error": "too long" * 10_000}, "400 Bad Request")), BODY, 5.0)
    assert len(str(refused.value)) < 2 * talk.REASON


def test_a_daemon_that_hangs_up_did_not_answer(answering):
    with pytest.raises(DeviceError, match="did not answer"):
        talk.scores(answering(b""), BODY, 5.0)


def test_a_stream_comes_piece_by_piece(answering):
    places = answering(OPEN + piece("Grün") + piece(" und ") + piece("rot") + CLOSE)

    assert list(talk.stream(places, "/", BODY, 5.0)) == ["Grün", " und ", "rot"]


def test_a_refused_stream_is_told_in_the_daemons_words(answering):
    refusal = http({"error": {"message": "the prompt is empty"}}, "400 Bad Request")

    with pytest.raises(DeviceError, match=r"refused \(400\): the prompt is empty"):
        list(talk.stream(answering(refusal), "/", BODY, 5.0))


def test_an_error_within_a_stream_is_told_in_the_daemons_words(answering):
    places = answering(OPEN + piece("so far") + event({"error": {"message": "out of memory"}}) + CLOSE)

    with pytest.raises(DeviceError, match="out of memory"):
        list(talk.stream(places, "/", BODY, 5.0))


HALF = piece("half an ")


@pytest.mark.parametrize("cut", range(0, len(HALF) - 2, 4))
def test_a_stream_that_breaks_off_within_an_event_is_no_answer(answering, cut):
    with pytest.raises(DeviceError, match="broke off"):
        list(talk.stream(answering(OPEN + piece("so ") + HALF + HALF[:cut] + b"2"), "/", BODY, 5.0))


def test_a_stream_that_breaks_off_between_two_events_is_no_answer(answering):
    with pytest.raises(DeviceError, match="broke off"):
        list(talk.stream(answering(OPEN + HALF), "/", BODY, 5.0))


def test_a_bare_prompt_goes_to_the_chat_of_a_model_that_has_one():
    path, body = talk.question({"prompt": "Hello", "seed": 7, "temperature": 0}, chat=True)

    assert path == "/v1/chat/completions"
    assert body == {"messages": [{"role": "user", "content": "Hello"}], "seed": 7, "temperature": 0}


@pytest.mark.parametrize(("raw", "chat"), [(True, True), (False, False), (None, False)])
def test_a_raw_prompt_or_a_model_without_a_chat_continues_the_text(raw, chat):
    asked = {"prompt": "Once", "raw": raw, "max_tokens": 5, "seed": None}

    assert talk.question(asked, chat=chat) == ("/v1/completions", {"prompt": "Once", "max_tokens": 5})


def test_messages_go_to_the_chat_even_raw():
    messages = [{"role": "user", "content": "Hello"}]

    path, body = talk.question({"messages": messages, "prompt": None, "raw": True}, chat=True)

    assert (path, body) == ("/v1/chat/completions", {"messages": messages})

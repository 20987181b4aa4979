"""A worker over its socket: real processes, real models."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from slmops.daemon.protocol import (
    Ask,
    Cancel,
    Done,
    Failed,
    Piece,
    Ping,
    Pulse,
    Reader,
    Ready,
    Refused,
    ToRouter,
    frame,
)

REPO = Path(__file__).parents[2]
PRIVATE = "a word that nobody may find"
ENDLESS = 30_000


class Line:
    """The router's end: says, and hears what comes, by whom it is about."""

    def __init__(self, process, ours, log):
        self.process, self.log = process, log
        self._socket, self._reader, self._heard, self._number = ours, Reader(ToRouter), [], 0

    def say(self, message):
        self._socket.sendall(frame(message))

    def ask(self, kind, **body):
        return self.send(kind, json.dumps(body).encode())

    def send(self, kind, body):
        self._number += 1
        self.say(Ask(id=self._number, kind=kind, body=body, answer="answer-1", created=7))
        return self._number

    def hear(self):
        while not self._heard:
            data = self._socket.recv(1 << 16)
            assert data, self.log.read_text()
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    def until(self, kinds, number):
        """All that is said of one request until its end."""
        said = []
        while not said or not isinstance(said[-1], kinds):
            message = self.hear()
            if getattr(message, "id", None) == number:
                said.append(message)
        return said

    def answer(self, kind, **body):
        return self.until(Done, self.ask(kind, **body))[-1]

    def refusal(self, kind, body):
        return self.until(Refused, self.send(kind, body))[-1]

    def leave(self):
        self._socket.close()


@contextmanager
def worker(artifact, folder, *options):
    ours, its = socket.socketpair()
    words = [
        sys.executable,
        "-m",
        "slmops.daemon.work",
        "--fd",
        its.fileno(),
        "--artifact",
        artifact,
        *options,
    ]
    log = folder / "log"
    with its, log.open("wb") as errors:
        process = subprocess.Popen(
            list(map(str, words)),
            cwd=REPO,
            pass_fds=[its.fileno()],
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield Line(process, ours, log)
    finally:
        process.kill()
        process.wait()
        ours.close()


@pytest.fixture(scope="module")
def line(parrot, tmp_path_factory):
    """A worker that serves the parrot."""
    with worker(parrot, tmp_path_factory.mktemp("worker"), "--slots", 3) as running:
        running.ready = running.hear()
        yield running


def body(done):
    return json.loads(done.data)


def test_it_says_what_it_can_be_asked(line, parrot):
    ready = line.ready
    assert isinstance(ready, Ready)
    assert (ready.slots, ready.context, ready.scores) == (3, 32768, True)
    assert ready.kinds[:2] == ("chat", "completion")
    assert ("embeddings" in ready.kinds) == (parrot / "model.gguf").exists()


def test_a_whole_answer_is_a_first_sign_and_a_body(line, tiny):
    number = line.ask("chat", messages=[{"role": "user", "content": "hi"}])
    first, done = line.until(Done, number)
    assert first == Piece(id=number, data=b"", tokens=1)
    assert body(done)["choices"][0]["message"]["content"] == done.text == tiny.SENTENCE
    assert body(done)["id"] == "answer-1"
    assert (done.finish, done.prompt_tokens) == ("stop", body(done)["usage"]["prompt_tokens"])


def test_a_stream_is_events_ready_to_be_sent(line, tiny):
    *pieces, done = line.until(
        Done, line.ask("chat", messages=[{"role": "user", "content": "hi"}], stream=True)
    )
    events = b"".join([*(piece.data for piece in pieces), done.data]).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events[:-2]]
    assert "".join(delta.get("content", "") for delta in deltas) == done.text == tiny.SENTENCE
    assert [piece.tokens for piece in pieces] == sorted(piece.tokens for piece in pieces)


def test_several_are_answered_together_each_its_own(line):
    numbers = {line.ask("completion", prompt=letter, max_tokens=9): letter for letter in "xyz"}
    ends = {}
    while len(ends) < 3:
        message = line.hear()
        if isinstance(message, Done):
            ends[numbers[message.id]] = message.text
    assert ends == {"x": "yzxyzxyzx", "y": "zxyzxyzxy", "z": "xyzxyzxyz"}


def test_what_was_read_before_is_not_read_again_unless_that_is_wanted(line):
    prompt = "x" * 100
    line.answer("completion", prompt=prompt, max_tokens=1)
    again = line.answer("completion", prompt=prompt + "y", max_tokens=1)
    anew = line.answer("completion", prompt=prompt + "y", max_tokens=1, cache_prompt=False)
    assert again.cached_tokens == 101
    assert body(again)["usage"]["prompt_tokens_details"]["cached_tokens"] == 101
    assert (anew.cached_tokens, anew.text) == (0, again.text)


def test_a_ping_is_answered_while_it_computes_and_a_cancelled_request_is_not_heard_of_again(line):
    number = line.ask("completion", prompt="x", max_tokens=ENDLESS, stream=True)
    line.until(Piece, number)
    line.say(Ping())
    while not isinstance(pulse := line.hear(), Pulse):
        assert isinstance(pulse, Piece)
    assert pulse.busy
    assert pulse.active == 1
    line.say(Cancel(id=number))
    # Whatever of it was under way comes before the next one's end, and nothing after.
    line.answer("completion", prompt="x", max_tokens=1)
    line.say(Ping())
    rested = line.hear()
    assert isinstance(rested, Pulse)
    assert (rested.busy, rested.active) == (False, 0)
    assert rested.steps > pulse.steps


@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        ("completion", b"{", "invalid_json"),
        ("completion", b'{"prompt": 3}', "invalid_value"),
        ("completion", b'{"prompt": [400]}', "invalid_value"),
        ("completion", json.dumps({"prompt": "x" * 40_000}).encode(), "context_length_exceeded"),
        ("classify", b'{"input": "x"}', None),
        ("chat", b'{"messages": [{"role": "system", "content": "x"}]}', None),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(line, kind, said, reason):
    refused = line.refusal(kind, said)
    assert (refused.status, refused.reason) == (400, reason)


def test_texts_become_vectors(line, parrot):
    if not (parrot / "model.gguf").exists():
        assert line.refusal("embeddings", b'{"input": "x"}').status == 400
        return
    done = line.answer("embeddings", input=["x", "yz"])
    vectors = [each["embedding"] for each in body(done)["data"]]
    assert [sum(number**2 for number in vector) for vector in vectors] == pytest.approx([1, 1])
    assert done.prompt_tokens == body(done)["usage"]["prompt_tokens"] == 5


def test_a_long_text_is_read_bit_by_bit_and_no_further_once_nobody_wants_it(line):
    if "embeddings" not in line.ready.kinds:
        pytest.skip("its graph says logits alone")

    def pulse():
        line.say(Ping())
        while not isinstance(said := line.hear(), Pulse):
            pass
        return said

    before, number = pulse(), line.ask("embeddings", input=[[7] * ENDLESS])
    while (now := pulse()).steps < before.steps + 3:
        assert not (now.steps > before.steps and now.active == 0)
    assert now.active == 1
    line.say(Cancel(id=number))
    line.answer("completion", prompt="x", max_tokens=1)
    after = pulse()
    assert (after.busy, after.steps < before.steps + ENDLESS // 16) == (False, True)


def test_nothing_of_what_is_asked_is_written_to_the_log(line):
    line.refusal("completion", json.dumps({"prompt": PRIVATE, "nonsense": PRIVATE}).encode())
    line.answer("completion", prompt=PRIVATE, max_tokens=3)
    assert PRIVATE not in line.log.read_text()


def test_alone_and_anew_an_answer_is_the_same_to_the_last_bit(random_model, tmp_path):
    asked = {"prompt": "some other text", "max_tokens": 12, "logprobs": 3, "cache_prompt": False}
    with worker(random_model, tmp_path) as line:
        assert isinstance(line.hear(), Ready)
        first = body(line.answer("completion", **asked))
        others = [line.ask("completion", prompt="some other " + "ab" * at, max_tokens=20) for at in range(9)]
        line.until(Done, others[-1])
        line.say(Cancel(id=others[0]))
        line.answer("completion", prompt="x", max_tokens=60)
        assert body(line.answer("completion", **asked))["choices"] == first["choices"]


def test_it_ends_with_its_socket_in_the_midst_of_computing(parrot, tmp_path):
    with worker(parrot, tmp_path) as line:
        assert isinstance(line.hear(), Ready)
        line.until(Piece, line.ask("completion", prompt="x", max_tokens=ENDLESS, stream=True))
        line.leave()
        assert line.process.wait(30) == 0


def test_a_model_that_does_not_load_is_told_of_and_ends_the_worker(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights())
    model = made / "model.gguf"
    model.write_bytes(model.read_bytes()[:1000])
    with worker(made, tmp_path) as line:
        failed = line.hear()
        assert isinstance(failed, Failed)
        assert "model.gguf does not load" in failed.message
        assert failed.code == "SLM-MODEL"
        assert line.process.wait(30) == 1


def test_a_model_that_llama_cpp_gives_up_on_ends_the_worker_by_itself_and_the_log_says_why(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights())
    model = made / "model.gguf"
    data = bytearray(model.read_bytes())
    name = b"llama.attention.layer_norm_rms_epsilon"
    struct.pack_into("<f", data, data.index(name) + len(name) + 4, -1.0)
    model.write_bytes(data)

    # Both threads give up: one by one they would start a debugger that holds open what the other waits for.
    with worker(made, tmp_path, "--threads", 2) as line:
        ended = line.process.wait(60)
        said = line.log.read_text().splitlines()

    assert ended == -signal.SIGABRT
    assert said
    assert [words for words in said if "GGML_ASSERT" not in words] == []

"""An installed llama-server as a worker, over the very socket that the router has."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from slmops.daemon.adopt import Pool
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
PROGRAM = os.environ.get("SLMOPS_LLAMA_SERVER") or shutil.which("llama-server")
PARROT = {"messages": [{"role": "user", "content": "hi"}]}


class Line:
    """The router's end of a worker's socket."""

    def __init__(self, process, ours):
        self.process, self._ours = process, ours
        self._reader, self._heard = Reader(ToRouter), []

    def say(self, *messages):
        self._ours.sendall(b"".join(map(frame, messages)))

    def hear(self):
        """The next message; None when there will be no more."""
        while not self._heard:
            data = self._ours.recv(1 << 16)
            if not data:
                return None
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    def ask(self, number=1, kind="chat", **said):
        self.say(Ask(id=number, kind=kind, body=json.dumps(said).encode(), answer="a-1", created=7))

    def answer(self, kind="chat", **said):
        """All that is said to one request."""
        self.ask(kind=kind, **said)
        heard = [self.hear()]
        while isinstance(heard[-1], Piece):
            heard.append(self.hear())
        return heard

    def close(self):
        self._ours.close()


@contextmanager
def adopted(artifact, program=PROGRAM, *options):
    ours, its = socket.socketpair()
    words = [
        "--fd",
        its.fileno(),
        "--artifact",
        artifact,
        "--digest",
        "sha256:00",
        "--adopt",
        program,
        *options,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "slmops.daemon.work", *map(str, words)],
        cwd=REPO,
        pass_fds=[its.fileno()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    its.close()
    try:
        with ours:
            yield Line(process, ours)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def program():
    if not PROGRAM:
        pytest.skip("there is no llama-server: neither SLMOPS_LLAMA_SERVER names one nor is it on PATH")
    return PROGRAM


@pytest.fixture(scope="module")
def artifact(tiny, tmp_path_factory):
    return tiny.make_artifact(
        tmp_path_factory.mktemp("adopted") / "parrot", "gguf", tiny.parrot_weights(), context=256
    )


@pytest.fixture(scope="module")
def worker(program, artifact):
    with adopted(artifact, program, "--slots", "2") as line:
        line.ready = line.hear()
        yield line


def test_it_says_what_it_can_when_it_has_spoken(worker):
    assert isinstance(worker.ready, Ready)
    assert (worker.ready.slots, worker.ready.pool, worker.ready.context) == (2, 256, 256)
    assert worker.ready.kinds == ("chat", "completion")


def test_it_answers_in_our_shapes(worker, tiny):
    first, done = worker.answer(**PARROT)

    said = json.loads(done.data)
    assert (first.data, first.tokens) == (b"", 1)
    assert said["choices"][0]["message"] == {"role": "assistant", "content": tiny.SENTENCE}
    assert said["choices"][0]["finish_reason"] == done.finish == "stop"
    assert (said["id"], said["created"], said["model"]) == ("a-1", 7, "parrot:1.0.0")
    assert said["system_fingerprint"] == "sha256:00"
    assert said["usage"]["prompt_tokens"] == done.prompt_tokens == 6
    assert said["usage"]["completion_tokens"] == done.output_tokens
    assert done.text == tiny.SENTENCE


def test_a_stream_comes_event_by_event_and_joins_to_the_same(worker, tiny):
    whole = worker.answer(**PARROT)[-1]
    *pieces, done = worker.answer(**PARROT, stream=True, stream_options={"include_usage": True})

    events = b"".join(each.data for each in (*pieces, done)).decode().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(pieces) > 1
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks if each["choices"])
    assert text == tiny.SENTENCE
    assert chunks[-1]["usage"]["completion_tokens"] == whole.output_tokens


def test_an_answer_has_its_limit_its_stops_and_its_scores(worker):
    done = worker.answer("completion", prompt="x", max_tokens=5, logprobs=2)[-1]

    said = json.loads(done.data)["choices"][0]
    assert (said["text"], said["finish_reason"], done.output_tokens) == ("yzxyz", "length", 5)
    assert said["logprobs"]["tokens"] == list("yzxyz")
    assert [len(top) for top in said["logprobs"]["top_logprobs"]] == [2] * 5
    assert all(score <= 0 for score in said["logprobs"]["token_logprobs"])
    assert worker.answer("completion", prompt="x", stop="xy")[-1].text == "yz"


def test_the_token_that_ends_an_answer_is_not_scored(worker, tiny):
    done = worker.answer(**PARROT, logprobs=True)[-1]

    scored = json.loads(done.data)["choices"][0]["logprobs"]["content"]
    # It tells of the tokens that make up one character as one.
    assert "".join(each["token"] for each in scored) == done.text == tiny.SENTENCE


def test_an_answer_ends_with_the_artifacts_own_tokens_too(program, tiny, tmp_path):
    ends = [1, tiny.make_tokenizer()[0].token_to_id("z")]
    folder = tiny.make_artifact(tmp_path / "p", "gguf", tiny.parrot_weights(), context=256, stop_ids=ends)
    with adopted(folder, program) as line:
        line.hear()
        done = line.answer("completion", prompt="x")[-1]

    assert (done.text, done.finish, done.output_tokens) == ("y", "stop", 1)


def test_an_answer_keeps_to_a_schema(worker):
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": [7]}}}

    assert worker.answer(**PARROT, response_format=form)[-1].text.strip() == "7"


def test_what_was_read_before_is_counted_and_can_be_left_out(worker):
    prompt = "x" * 40
    worker.answer("completion", prompt=prompt, max_tokens=2)

    assert worker.answer("completion", prompt=prompt, max_tokens=2)[-1].cached_tokens > 30
    assert worker.answer("completion", prompt=prompt, max_tokens=2, cache_prompt=False)[-1].cached_tokens == 0


@pytest.mark.parametrize(
    ("kind", "said", "named"),
    [
        ("completion", {"prompt": "x" * 300}, "the prompt has 301 tokens; the context, answer included, 256"),
        ("completion", {"prompt": "x", "grammar": "root ::= nothing"}, "failed to parse grammar"),
        ("completion", {"prompt": "x", "echo": True, "logprobs": 1}, "cannot score a prompt"),
        ("completion", {"prompt": [9999]}, "invalid tokens"),
        ("embeddings", {"input": "x"}, "is not asked for embeddings"),
        ("chat", {"messages": [{"role": "user", "content": "<|end|>"}]}, "a control token in a message"),
        ("chat", {**PARROT, "tools": [{"type": "function", "function": {"name": "f"}}]}, "knows none"),
        ("completion", {"prompt": "x", "presence_penalty": 1}, "the tokens of an answer alone"),
        ("chat", {"messages": [{"role": "system", "content": "a"}]}, "its template knows none"),
    ],
)
def test_what_it_cannot_do_is_refused_with_a_reason(worker, kind, said, named):
    (refused,) = worker.answer(kind, **said)

    assert isinstance(refused, Refused)
    assert refused.status == 400
    assert named in refused.message


def test_what_was_cancelled_makes_room_for_who_waits(worker):
    worker.ask(11, "completion", prompt="x", max_tokens=250)
    worker.hear()
    worker.ask(12, "completion", prompt="x", max_tokens=240)
    worker.say(Cancel(id=11))

    heard = worker.hear()
    while not isinstance(heard, Done):
        heard = worker.hear()
    assert (heard.id, heard.output_tokens) == (12, 240)


def test_a_ping_is_answered_while_it_works(worker):
    worker.ask(21, "completion", prompt="x", max_tokens=250, stream=True)
    worker.hear()
    worker.say(Ping(), Cancel(id=21))

    heard = worker.hear()
    while isinstance(heard, Piece):
        heard = worker.hear()
    assert isinstance(heard, Pulse)
    assert heard.busy
    assert heard.steps > 0


def children(process):
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(each) for each in found]


def door_of(process):
    """The socket of a worker's llama-server."""
    (child,) = children(process)
    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    return Path(words[words.index(b"--host") + 1].decode())


def ended(pid):
    """Wait until a process that is not our child is gone, or is but waited for."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return asyncio.run(_readable(handle))
    finally:
        os.close(handle)


async def _readable(handle):
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, gone.set)
    await asyncio.wait_for(gone.wait(), 30)
    return True


@pytest.mark.parametrize("how", ["the router leaves", "the worker is killed"])
def test_it_ends_with_us(program, artifact, how):
    with adopted(artifact, program) as line:
        line.hear()
        (child,) = children(line.process)
        if how == "the router leaves":
            line.close()
            assert line.process.wait(30) == 0
        else:
            line.process.kill()
        assert ended(child)


def test_we_end_with_it_and_refuse_nothing_that_another_could_answer(program, artifact):
    with adopted(artifact, program) as line:
        line.hear()
        (child,) = children(line.process)
        line.ask(1, "completion", prompt="x", max_tokens=250, stream=True)
        line.hear()
        os.kill(child, signal.SIGKILL)
        heard = line.hear()
        while isinstance(heard, Piece):
            heard = line.hear()
        assert heard is None
        assert line.process.wait(30) == 1


def test_nobody_without_the_key_is_answered(program, artifact):
    with adopted(artifact, program) as line:
        line.hear()
        door = door_of(line.process)
        assert door.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(door))
            other.sendall(b'POST /completion HTTP/1.0\r\nContent-Length: 14\r\n\r\n{"prompt":"x"}')
            assert b" 401 " in other.recv(1000)


def test_what_a_killed_one_left_is_taken_away_by_the_next(program, artifact):
    with adopted(artifact, program) as line:
        line.hear()
        left = door_of(line.process).parent
    assert left.exists()

    with adopted(artifact, program) as line:
        line.hear()
        ours = door_of(line.process).parent
        assert not left.exists()
        line.close()
        line.process.wait(30)
    assert not ours.exists()


def test_an_artifact_that_does_not_load_is_told_of(program, tiny, tmp_path):
    folder = tiny.make_artifact(tmp_path / "parrot", "gguf", tiny.parrot_weights(), context=256)
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with adopted(folder, program) as line:
        heard = line.hear()

        assert isinstance(heard, Failed)
        assert "llama-server ended with" in heard.message
        assert line.process.wait(30) == 1


def test_a_program_that_is_not_there_is_told_of(artifact):
    with adopted(artifact, "/nowhere/llama-server") as line:
        heard = line.hear()

    assert isinstance(heard, Failed)
    assert "/nowhere/llama-server cannot be run: No such file" in heard.message


def test_an_artifact_that_is_not_for_llama_server_is_told_of(tiny, tmp_path):
    folder = tiny.make_artifact(tmp_path / "parrot", "onnx", tiny.parrot_weights())
    with adopted(folder, "/bin/true") as line:
        heard = line.hear()

    assert "not adopted for onnx" in heard.message


async def _queue():
    pool, order = Pool(10), []

    async def worth(name, count, hold):
        async with pool.room(count):
            order.append(name)
            await hold.wait()

    first, rest = asyncio.Event(), asyncio.Event()
    tasks = [
        asyncio.ensure_future(worth(*each)) for each in [("a", 6, first), ("b", 7, rest), ("c", 3, rest)]
    ]
    gone = asyncio.ensure_future(worth("d", 9, rest))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    before = list(order)
    first.set()
    rest.set()
    await asyncio.gather(*tasks)
    return before, order, pool.free


def test_who_does_not_fit_waits_and_nobody_passes_by():
    assert asyncio.run(_queue()) == (["a"], ["a", "b", "c"], 10)


def test_a_daemon_answers_by_an_adopted_llama_server(program, artifact, tiny, run_daemon):
    with run_daemon(artifact, "--adopt", program) as running, running.client() as http:
        whole = http.post("/v1/chat/completions", json=PARROT).json()
        refused = http.post("/v1/completions", json={"prompt": "x", "echo": True, "logprobs": 1})

        assert whole["choices"][0]["message"]["content"] == tiny.SENTENCE
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "echo"
        assert running.stop() == 0

"""A real daemon process on a free port, asked over HTTP and by OpenAI's own client."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from slmops import keep_keys
from slmops.telemetry import capture
from slmops.telemetry.spool import read
from slmops.wire import FROM_AGENT

REPO = Path(__file__).parents[2]
HI = [{"role": "user", "content": "hi"}]
LONG = {"prompt": "x" * 32_000}
"""A prompt that takes many seconds to read."""


@pytest.fixture(scope="module")
def client(speaking):
    with openai.OpenAI(base_url=f"{speaking.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def samples(http):
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def events(spool):
    return [event for _, event in read(spool).events]


def test_openais_client_chats(client, tiny):
    answer = client.chat.completions.create(model="parrot", messages=HI)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", tiny.SENTENCE)
    assert choice.finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "parrot:1.0.0"
    assert answer.system_fingerprint == "sha256:" + "0" * 64
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == 6


def test_an_answer_may_be_given_back_as_openais_client_has_it(client):
    answer = client.chat.completions.create(model="parrot", messages=HI).choices[0].message
    parsed = client.chat.completions.parse(model="parrot", messages=HI).choices[0].message
    for said in (answer, answer.model_dump(), parsed, parsed.model_dump()):
        more = client.chat.completions.create(model="parrot", messages=[*HI, said, *HI])
        assert more.choices[0].message.content == answer.content


def test_openais_client_streams_a_chat(client, tiny):
    chunks = list(client.chat.completions.create(model="parrot:1.0.0", messages=HI, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == tiny.SENTENCE
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None for chunk in chunks)


def test_openais_client_streams_with_usage(client):
    asked = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(model="parrot", **asked)
    whole = client.chat.completions.create(model="parrot", messages=HI)
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)


def test_openais_client_completes(client):
    answer = client.completions.create(model="parrot", prompt="x", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("yzxyz", "length")
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens == 5


def test_openais_client_streams_a_completion(client):
    chunks = list(client.completions.create(model="parrot", prompt="x", max_tokens=40, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == ("yzx" * 14)[:40]
    assert chunks[-1].choices[0].finish_reason == "length"


def test_characters_of_several_tokens_come_whole(client):
    chunks = client.completions.create(model="parrot", prompt="G", stream=True)
    assert [text for chunk in chunks if (text := chunk.choices[0].text)] == list("rün, 猫!")


def test_a_stop_string_ends_a_stream_and_is_not_part_of_it(client):
    chunks = list(client.chat.completions.create(model="parrot", messages=HI, stop=[", 猫"], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Grün"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openais_client_lists_the_release(client):
    (model,) = client.models.list().data
    assert (model.id, model.release, model.digest) == ("parrot", "parrot:1.0.0", "sha256:" + "0" * 64)


def test_openais_client_knows_the_errors(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="parrot:2.0.0", prompt="x")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="unknown field `suffix`"):
        client.completions.create(model="parrot", prompt="x", suffix="y")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="parrot", prompt="x" * 40_000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", b"{", 400),
        ("/v1/completions", b"a" * 1_048_577, 413),
        ("/v1/completions", b"a" * 30_000_000, 413),
        (
            "/v1/chat/completions",
            json.dumps({"messages": [{"role": "system", "content": "x"}]}).encode(),
            400,
        ),
        ("/v1/embeddings", b"{}", 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/models", b"{}", 405),
    ],
)
def test_what_is_not_answered_is_said_in_openais_shape(speaking, path, body, status):
    answer = speaking.http.post(path, content=body)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def spoken(running, *sent):
    """What comes back for bytes that no client library would send."""
    address = httpx.URL(running.url)
    with socket.create_connection((address.host, address.port), 60) as line:
        for each in sent:
            line.sendall(each)
        found = b""
        while b"\r\n\r\n" not in found or b"}" not in found:
            data = line.recv(65536)
            assert data, found
            found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head.decode()


POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize("more", [b"", b"expect: 100-continue\r\n"])
def test_a_body_that_is_said_to_be_too_long_is_refused_before_it_comes(speaking, more):
    status, said, _ = spoken(speaking, POST + more + b"content-length: 9999999999\r\n\r\n")

    assert (status, said["error"]["code"]) == (413, "body_too_large")


def test_a_whole_address_is_a_path_and_a_host(speaking):
    for path in (b"/v1/models", b"/nothing", b"/admin/v1/status"):
        target = b"GET http://localhost%s HTTP/1.1\r\nhost: other.example\r\n\r\n" % path
        plain = b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path
        assert spoken(speaking, target)[:2] == spoken(speaking, plain)[:2]
    elsewhere = spoken(speaking, b"GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert elsewhere[1]["error"]["code"] == "host_refused"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 400, "head_too_large"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 400, "head_too_large"),
        (
            POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            400,
            "invalid_head",
        ),
        (POST + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", 415, "unsupported_encoding"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 404, "not_found"),
        (b"GET /v1/completions HTTP/1.1\r\nhost: localhost\r\n\r\n", 405, "method_not_allowed"),
    ],
)
def test_what_http_leaves_open_is_refused_with_a_code(speaking, sent, status, code):
    refused, said, head = spoken(speaking, sent)

    assert (refused, said["error"]["code"], said["error"]["type"]) == (status, code, "invalid_request_error")
    assert len(said["error"]["message"]) < 300
    assert ("connection: close" in head) == (status == 400)


def test_metrics_count_what_happened(speaking):
    before = samples(speaking.http)
    speaking.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 7})
    speaking.http.post("/v1/completions", json={"prompt": "x", "bad": 7})
    after = samples(speaking.http)

    def grown(*key):
        return after[key] - before.get(key, 0)

    version = ("0" * 12, "current", "parrot:1.0.0")
    assert grown("slmops_requests_total", "200", *version) == 1
    assert grown("slmops_requests_total", "400", "", "", "") == 1
    assert grown("slmops_tokens_total", *version, "input") == 2
    assert grown("slmops_tokens_total", *version, "output") == 7
    assert grown("slmops_time_to_first_token_seconds_count", *version) == 1
    assert grown("slmops_time_per_output_token_seconds_count", *version) == 1
    assert after["slmops_queue_depth",] == 0
    (info,) = (key for key in after if key[0] == "slmops_model_info")
    assert {"parrot:1.0.0", "0" * 12} <= set(info)


def test_metrics_count_who_was_turned_away_and_readiness_is_told_without_a_word_of_versions(
    parrot, run_daemon, tmp_path
):
    file = tmp_path / "keys.json"
    key = keep_keys.create(file, "watch", "metrics")[1]
    own = {"authorization": f"Bearer {key}"}
    with (
        run_daemon(parrot, "--keys", file) as running,
        httpx.Client(base_url=running.url, timeout=60, headers=own) as http,
    ):
        refused = http.get("/metrics", headers={"authorization": "Bearer wrong"})
        running.until(lambda: http.get("/readyz").is_success)
        bare = [httpx.get(f"{running.url}/readyz"), http.get("/readyz")]
        counted = samples(http)

    assert [(each.status_code, each.json()) for each in bare] == [(200, {"ready": True})] * 2
    assert refused.status_code == 401
    assert counted["slmops_turned_away_total", "wrong_key"] == 1
    assert counted["slmops_turned_away_total", "late"] == 0


def test_every_request_leaves_an_event_and_no_words(speaking):
    before = len(events(speaking.spool))
    overheard = "whisper nobody"
    speaking.http.post("/v1/completions", json={"prompt": overheard, "max_tokens": 3})
    speaking.http.post("/v1/chat/completions", json={"messages": [{"role": "system", "content": overheard}]})
    speaking.until(lambda: len(events(speaking.spool)) >= before + 2)
    answered, refused = events(speaking.spool)[before:]
    assert (answered.release, answered.digest, answered.status) == ("parrot:1.0.0", "sha256:" + "0" * 64, 200)
    assert answered.output_tokens == 3
    assert 0 < answered.first_token_seconds <= answered.seconds
    assert (refused.status, refused.first_token_seconds) == (400, None)
    kept = [file.read_bytes() for file in (speaking.log, *speaking.spool.iterdir())]
    assert not any(word.encode() in text for word in overheard.split() for text in kept)


def test_when_the_client_leaves_the_work_stops(speaking):
    before = len(events(speaking.spool))
    with pytest.raises(httpx.ReadTimeout):
        speaking.http.post("/v1/completions", json=LONG, timeout=0.2)
    with speaking.http.stream(
        "POST", "/v1/completions", json={"prompt": "x", "max_tokens": 30_000, "stream": True}
    ) as stream:
        assert next(stream.iter_lines()).startswith("data: ")
    speaking.until(lambda: len(events(speaking.spool)) >= before + 2)
    unheard, cut_off = events(speaking.spool)[before:]
    assert (unheard.status, unheard.output_tokens) == (499, 0)
    assert cut_off.status == 499
    assert 0 < cut_off.output_tokens < 30_000
    assert speaking.http.post("/v1/completions", json={"prompt": "G"}).status_code == 200


def test_a_stop_lets_running_requests_finish(parrot, run_daemon):
    ask = {"prompt": "x", "max_tokens": 500, "stream": True}
    with run_daemon(parrot) as running, running.client() as http:
        with http.stream("POST", "/v1/completions", json=ask) as stream:
            lines = stream.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert running.process.wait(timeout=60) == 0
        assert [event.status for event in events(running.spool)] == [200]


@pytest.mark.journey
def test_a_stop_does_not_wait_for_a_client_that_does_not_read(parrot, run_daemon):
    ask = {"prompt": "x", "max_tokens": 32_000, "stream": True}
    with run_daemon(parrot, "--drain", "1") as running, running.client() as http:
        with http.stream("POST", "/v1/completions", json=ask) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert running.stop() == 0
        (event,) = events(running.spool)
        assert event.status in {499, 503}


def test_telemetry_that_cannot_be_kept_keeps_nobody_from_serving_and_is_told_of(parrot, run_daemon, tmp_path):
    (tmp_path / "file").touch()
    with run_daemon(parrot, "--spool", tmp_path / "file" / "spool") as running, running.client() as http:
        assert http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
        assert "no telemetry is kept" in running.log.read_text()


def test_a_stop_while_loading_is_a_stop(parrot, run_daemon):
    with run_daemon(parrot) as running:
        assert running.url
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("needs", "options", "remedy"),
    [
        ({"memory_bytes": 10**12}, (), "--memory-limit"),
        ({"memory_bytes": 1 << 20}, ("--memory-limit", "1MiB"), "--memory-limit"),
        ({"predicted": {"kv_cache": 1e9}}, ("--pool", "100000000"), "Say a smaller --pool"),
    ],
)
def test_what_there_is_no_memory_for_is_not_begun(tiny, tmp_path, needs, options, remedy):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), **needs)
    with tiny.daemon(made, tmp_path, *options) as running:
        assert running.process.wait(60) == 1
    complaint, following = running.log.read_text().splitlines()[-2:]
    assert "parrot:1.0.0 does not fit: it needs" in complaint
    assert following.startswith("next: ")
    assert remedy in following
    assert "loading" not in running.log.read_text()


@pytest.mark.parametrize("fault", ["no folder", "no model", "cut off", "no template", "port taken"])
def test_what_cannot_be_served_is_one_line_and_exit_code_1(tiny, tmp_path, fault):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights())
    model = made / "model.gguf"
    if fault == "no folder":
        made = tmp_path / "elsewhere"
    elif fault == "no model":
        model.unlink()
    elif fault == "cut off":
        model.write_bytes(model.read_bytes()[:5000])
    elif fault == "no template":
        (made / "chat_template.jinja").write_text("{% for %}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if fault == "port taken" else 0
        command = [sys.executable, "-m", "slmops.daemon", "--artifact", made, "--port", str(port)]
        ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith("slmopsd: ")]) == 1


def worker_of(running):
    (worker,) = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    return int(worker)


def test_a_stream_whose_worker_ends_says_so_and_the_next_request_is_answered(parrot, run_daemon):
    endless = {"prompt": "x", "max_tokens": 30000, "stream": True}
    with run_daemon(parrot) as running, running.client() as client:
        with client.stream("POST", "/v1/completions", json=endless) as said:
            lines = said.iter_lines()
            next(lines)
            os.kill(worker_of(running), signal.SIGKILL)
            last = [line for line in lines if line][-1]
        after = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})

    assert "worker ended" in last
    assert after.json()["choices"][0]["text"] == "yz"


def test_who_keeps_a_workers_log_open_holds_up_nobody_who_ends_the_worker(parrot, run_daemon):
    with (
        run_daemon(parrot) as running,
        running.client(),
        # As a child does that the worker left behind.
        Path(f"/proc/{worker_of(running)}/fd/2").open("wb"),
    ):
        assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_lets_running_requests_finish(parrot, run_daemon, number):
    ask = {"prompt": "x", "max_tokens": 500, "stream": True}
    with run_daemon(parrot) as running, running.client() as http:
        with http.stream("POST", "/v1/completions", json=ask) as stream:
            lines = stream.iter_lines()
            next(lines)
            # As a terminal does with Ctrl-C, and `timeout` with its group.
            os.kill(worker_of(running), number)
            running.process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert running.process.wait(timeout=60) == 0


def test_what_a_worker_writes_is_in_the_log_in_the_logs_own_form(parrot, run_daemon, monkeypatch):
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    with run_daemon(parrot, "--log", "json") as running, running.client() as http:
        pid = worker_of(running)
        os.kill(pid, signal.SIGABRT)
        http.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})
        assert running.stop() == 0
    said = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert any("Aborted" in line["event"] and line["pid"] == pid for line in said)
    assert "the worker of parrot:1.0.0 is back" in [line["event"] for line in said]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_router(parrot, run_daemon, number):
    with run_daemon(parrot) as running, running.client():
        worker = os.pidfd_open(worker_of(running))
        running.process.send_signal(number)
        running.process.wait(60)
        ended, _, _ = select.select([worker], [], [], 30)

    assert ended


def test_an_answer_that_is_given_again_is_a_sample_with_its_words(parrot, run_daemon):
    asked = {"prompt": "abc", "max_tokens": 3, "temperature": 0}
    with run_daemon(parrot, "--capture", "1", "--cache", "1MiB") as running, running.client() as client:
        texts = [client.post("/v1/completions", json=asked).json()["choices"][0]["text"] for _ in range(2)]
        running.until(lambda: len(capture.read(running.spool).samples) == len(texts))
    assert [sample["answer"] for sample in capture.read(running.spool).samples] == texts


def test_what_the_agent_asks_is_no_sample_of_what_users_ask(parrot, run_daemon):
    with run_daemon(parrot, "--capture", "1") as running, running.client() as client:
        for prompt, headers in (("golden", {FROM_AGENT: "1"}), ("user", {})):
            asked = {"prompt": prompt, "max_tokens": 2}
            assert client.post("/v1/completions", json=asked, headers=headers).status_code == 200
        running.until(lambda: capture.read(running.spool).samples)
    assert [sample["prompt"] for sample in capture.read(running.spool).samples] == ["user"]

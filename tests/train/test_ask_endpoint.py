"""Asking an endpoint, which is a small server in this process."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slmops.errors import UnreachableError, UsageError
from slmops.train.answers import Asking
from slmops.train.ask_endpoint import TRIES, open_endpoint
from slmops.train.write_answers import said_beside, write_answers

MODELS = {"data": [{"id": "big"}]}


def chat(text, finish="stop"):
    return 200, {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": {"completion_tokens": 3},
    }


def fault(status, message, code=None):
    return status, {"error": {"message": message, "code": code}}


class Listening(ThreadingHTTPServer):
    """A server at which many may knock at once."""

    request_queue_size = 64


class Server:
    """An endpoint that answers as `answers` says, and remembers what it was asked."""

    def __init__(self, answers):
        self.asked, self.keys, lock = [], [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.tell(*answers("models", {}, 0))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.asked.append(body)
                    outer.keys.append(self.headers["authorization"])
                    before = sum(one == body for one in outer.asked) - 1
                self.tell(*answers(self.path.removeprefix("/v1/"), body, before))

            def tell(self, status, said, headers=()):
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for key, value in headers:
                    self.send_header(key, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def serving(answers, models=MODELS):
    """Run an endpoint for the length of a with block."""
    server = Server(lambda where, *rest: (200, models) if where == "models" else answers(where, *rest))
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        thread.join()
        server.server.server_close()


@pytest.fixture
def prompts(tmp_path):
    """A file of twelve prompts."""
    (tmp_path / "prompts.txt").write_text("".join(f"Say {number}\n" for number in range(12)))
    return tmp_path / "prompts.txt"


def asked_of(body):
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def echo(_where, body, _before):
    return chat(f"{asked_of(body)}!")


def told(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_conversations_and_prompts_go_where_each_belongs(tmp_path):
    def answers(where, body, _before):
        text = f"{where} {asked_of(body)}"
        if where == "completions":
            return 200, {"choices": [{"text": text, "finish_reason": "stop"}]}
        return chat(text)

    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n')
    with serving(answers) as server:
        endpoint = open_endpoint(server.url + "/", None, "secret")
        write_answers(endpoint, [tmp_path / "p.jsonl"], tmp_path / "out.jsonl", Asking(seed=3))
    plain, talk = told(tmp_path / "out.jsonl")
    assert (plain["completion"], talk["messages"][-1]["content"]) == ("completions a", "chat/completions b")
    assert plain["provenance"]["endpoint"] == server.url
    assert plain["provenance"]["teacher"] == "big"
    assert plain["provenance"]["likelihood"] is None
    assert set(server.keys) == {"Bearer secret"}
    assert (
        "secret" not in (tmp_path / "out.jsonl").read_text() + said_beside(tmp_path / "out.jsonl").read_text()
    )
    assert "secret" not in repr(endpoint)
    assert [set(body) - {"messages", "prompt"} for body in server.asked] == [
        {"model", "max_tokens", "temperature"}
    ] * 2


def test_a_busy_endpoint_is_asked_again_after_the_pause_it_wants(prompts, tmp_path):
    def answers(_where, body, before):
        if before == 0:
            return *fault(429, "slower"), [("retry-after", "0")]
        return (
            echo(_where, body, before) if before == 2 else (*fault(503, "loading"), [("retry-after", "0.01")])
        )

    with serving(answers) as server:
        found = write_answers(
            open_endpoint(server.url, None, None), [prompts], tmp_path / "o.jsonl", Asking(chat=True)
        )
    assert (found.kept, found.tokens, found.written) == (12, 36, 36)
    assert Counter(asked_of(body) for body in server.asked) == {f"Say {number}": 3 for number in range(12)}
    assert [line["messages"][-1]["content"] for line in told(tmp_path / "o.jsonl")] == [
        f"Say {n}!" for n in range(12)
    ]


def test_one_that_stays_busy_is_given_up_and_gone_on_with_later(prompts, tmp_path):
    def weary(where, body, before):
        return (
            echo(where, body, before)
            if asked_of(body) < "Say 3"
            else (*fault(503, "tired"), [("retry-after", "0.001")])
        )

    out = tmp_path / "out.jsonl"
    with serving(weary) as server:
        endpoint = open_endpoint(server.url, None, None)
        with pytest.raises(
            UnreachableError, match=f"did not answer {TRIES} times in a row; at last: HTTP 503: tired"
        ):
            write_answers(endpoint, [prompts], out, Asking(chat=True, batch=1))
    assert not out.exists()
    first = len(server.asked) - TRIES
    assert first == 3
    with serving(echo) as other:
        # The same endpoint, which has moved to another port in this test alone.
        journal = said_beside(out)
        journal.write_text(journal.read_text().replace(endpoint.url, other.url))
        found = write_answers(
            open_endpoint(other.url, None, None), [prompts], out, Asking(chat=True, batch=1)
        )
    assert (found.kept, len(other.asked)) == (12, 12 - first)


def test_more_prompts_may_be_added_and_none_is_asked_twice(prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    with serving(echo) as server:
        endpoint = open_endpoint(server.url, None, None)
        write_answers(endpoint, [prompts], out, Asking(chat=True))
        prompts.write_text("Say nothing\n" + prompts.read_text())
        found = write_answers(endpoint, [prompts], out, Asking(chat=True))
        assert (found.kept, len(server.asked)) == (13, 13)
        again = write_answers(endpoint, [prompts], out, Asking(chat=True))
        assert (again.kept, again.written, again.per_second, len(server.asked)) == (13, 0, None, 13)


def test_the_dice_of_each_answer_are_sent(prompts, tmp_path):
    with serving(lambda _where, body, _before: chat(str(body["seed"]))) as server:
        asking = Asking(chat=True, answers=2, temperature=0.7, top_p=0.9, seed=5)
        write_answers(open_endpoint(server.url, None, None), [prompts], tmp_path / "out.jsonl", asking)
    assert len({body["seed"] for body in server.asked}) == 24
    assert {(body["temperature"], body["top_p"]) for body in server.asked} == {(0.7, 0.9)}


def test_no_more_are_asked_at_once_than_was_said(prompts, tmp_path):
    now, most, lock = 0, 0, threading.Lock()
    two = threading.Barrier(2, timeout=30)

    def answers(where, body, before):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        two.wait()
        with lock:
            now -= 1
        return echo(where, body, before)

    with serving(answers) as server:
        asking = Asking(chat=True, batch=2)
        found = write_answers(
            open_endpoint(server.url, None, None), [prompts], tmp_path / "out.jsonl", asking
        )
    assert (found.kept, most) == (12, 2)


def test_a_question_that_is_refused_for_its_own_sake_is_dropped_and_the_rest_is_asked(prompts, tmp_path):
    def answers(where, body, before):
        if asked_of(body) == "Say 3":
            return fault(400, "too long", "context_length_exceeded")
        return chat("", "content_filter") if asked_of(body) == "Say 4" else echo(where, body, before)

    with serving(answers) as server:
        endpoint = open_endpoint(server.url, None, None)
        found = write_answers(endpoint, [prompts], tmp_path / "out.jsonl", Asking(chat=True))
    assert (found.kept, found.answers, dict(found.dropped)) == (10, 10, {"refused": 2})
    assert {line["dropped"] for line in told(tmp_path / "out.dropped.jsonl")} == {"refused"}


def test_a_model_that_wants_the_limit_under_its_newer_name_gets_it(prompts, tmp_path):
    def answers(where, body, before):
        if "max_tokens" in body:
            return fault(
                400, "Unsupported parameter: use 'max_completion_tokens' instead.", "unsupported_parameter"
            )
        return echo(where, body, before)

    with serving(answers) as server:
        endpoint = open_endpoint(server.url, None, None)
        found = write_answers(endpoint, [prompts], tmp_path / "out.jsonl", Asking(chat=True, batch=1))
    assert (found.kept, len(server.asked)) == (12, 13)


@pytest.mark.parametrize(
    ("answer", "told", "remedy"),
    [
        (fault(401, "bad key"), "refuses to answer without a key: bad key", "OPENAI_API_KEY"),
        (fault(404, "The model 'x' does not exist"), "HTTP 404: The model", "one of: big"),
        (fault(404, "Not Found"), "HTTP 404: Not Found", "http://HOST:PORT/v1"),
        (fault(400, "temperature: no"), r"txt, line 1: .*HTTP 400", "leave that question out"),
        (fault(429, "no money", "insufficient_quota"), "no money", "Pay"),
        ((200, b"<html>"), "another shape than OpenAI's: '<html>'", "OpenAI-compatible"),
        ((200, {"choices": []}), "another shape", "OpenAI-compatible"),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_told_at_once_with_what_to_do(prompts, tmp_path, answer, told, remedy):
    with serving(lambda *_: answer) as server:
        endpoint = open_endpoint(server.url, None, None)
        with pytest.raises(UsageError, match=told) as failed:
            write_answers(endpoint, [prompts], tmp_path / "out.jsonl", Asking(chat=True, batch=1))
    assert remedy in failed.value.remedy
    assert len(server.asked) == 1


def test_where_nothing_answers_that_is_said():
    with serving(echo) as server:
        url = server.url
    with pytest.raises(UnreachableError, match="cannot be reached") as failed:
        open_endpoint(url, None, None)
    assert "curl" in failed.value.remedy


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "http://[/v1", "http:///v1"])
def test_an_address_that_is_none_or_holds_a_password_is_refused(url):
    with pytest.raises((UsageError, UnreachableError)) as failed:
        open_endpoint(url, None, None)
    assert "secret" not in str(failed.value)


def test_of_several_models_one_must_be_named():
    with (
        serving(echo, {"data": [{"id": "big"}, {"id": "small"}]}) as server,
        pytest.raises(UsageError, match="has 2 models") as failed,
    ):
        open_endpoint(server.url, None, None)
    assert "big, small" in failed.value.remedy


def test_one_that_does_not_say_its_models_is_asked_for_the_one_that_was_named():
    with serving(echo, {}) as server:
        assert open_endpoint(server.url, "big", None).model == "big"
        with pytest.raises(UsageError, match="does not say which models") as failed:
            open_endpoint(server.url, None, None)
    assert "/v1" in failed.value.remedy

"""The HTTP server over real workers: what it says when, without a socket of its own."""

import asyncio
import json
import os
import re
import resource
import signal
import time
from contextlib import suppress

import httpx
import pytest

from slmops.daemon.admit import Admission, Door
from slmops.daemon.journal import Journal
from slmops.daemon.pressure import Reading
from slmops.daemon.refusal import RefusedError, WorkerLostError
from slmops.daemon.serve import application
from slmops.daemon.service import Service, Settings
from slmops.daemon.swap import Swap
from slmops.daemon.tend import CRASHES, Plan
from slmops.daemon.weigh import file_bytes, resident_bytes
from slmops.errors import ModelError

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
DIGEST = "sha256:" + "0" * 64


class Scene:
    """A service, its verbs and a client of it, all in one event loop."""

    def __init__(self, settings):
        self.journal = Journal()
        self.service = Service(settings, self.journal)
        self.swap = Swap(self.service.house, self.journal, moved=self.service.moved)
        self.app = Admission(application(self.service), Door())
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://localhost", timeout=60
        )

    async def completes(self, **asked):
        return await self.client.post("/v1/completions", json=asked)

    async def until(self, happened):
        while not happened():  # noqa: ASYNC110 - nothing tells of it but the number itself
            await asyncio.sleep(0.01)


def play(part, *, folder=None, **settings):
    """Run `part` with a scene in which the artifact in `folder` is served."""

    async def run():
        scene = Scene(Settings(**settings))
        try:
            if folder is not None:
                await scene.swap.begin(folder, DIGEST)
            return await part(scene)
        finally:
            await scene.client.aclose()
            await scene.swap.end()
            await scene.service.close()

    return asyncio.run(run())


def test_before_anything_is_loaded_the_daemon_is_alive_and_requests_wait(parrot):
    async def part(scene):
        before = [await scene.client.get("/healthz"), await scene.client.get("/readyz")]
        asking = asyncio.ensure_future(scene.client.post("/v1/chat/completions", json=CHAT))
        await scene.until(lambda: scene.service.desk.waiting)
        await scene.swap.begin(parrot, DIGEST)
        return before, await asking, await scene.client.get("/readyz")

    (health, ready), answered, after = play(part)

    assert health.status_code == 200
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert answered.status_code == 200
    said = {"ready": True, "release": "parrot:1.0.0", "digest": DIGEST, "scores": True}
    assert after.json() == {**said, "labels": {"current": DIGEST}}


def test_who_waits_too_long_for_a_version_is_told_to_come_again():
    async def part(scene):
        return await scene.completes(prompt="x")

    refused = play(part, max_pause=0.05)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_model_that_does_not_load_is_never_ready(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights())
    (made / "model.gguf").write_bytes(b"GGUF, or not")

    async def part(scene):
        with pytest.raises(ModelError, match=r"model\.gguf"):
            await scene.swap.begin(made, DIGEST)
        return await scene.client.get("/readyz")

    assert play(part).status_code == 503


def test_without_a_chat_template_chat_says_where_to_go(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), chat_template=None)

    async def part(scene):
        chat = await scene.client.post("/v1/chat/completions", json=CHAT)
        return chat, await scene.completes(prompt="G")

    chat, plain = play(part, folder=made)

    assert chat.status_code == 400
    assert "use /v1/completions" in chat.json()["error"]["message"]
    assert plain.status_code == 200


@pytest.mark.parametrize("kind", ["gguf", "onnx"])
def test_an_answer_ends_where_the_context_does(tiny, tmp_path, kind):
    made = tiny.make_artifact(tmp_path / "artifact", kind, tiny.parrot_weights(), context=50)

    async def part(scene):
        return await scene.completes(prompt="x" * 39, max_tokens=1000)

    said = play(part, folder=made).json()

    assert said["choices"][0]["finish_reason"] == "length"
    usage = said["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (40, 10, 50)


def test_the_release_says_how_to_choose_when_the_request_does_not(tiny, tmp_path):
    made = tiny.make_artifact(
        tmp_path / "artifact",
        "gguf",
        tiny.random_weights(),
        generation={"temperature": 1.5, "max_tokens": 30.0},
    )

    async def part(scene):
        asked = [{"seed": 1}, {"seed": 1}, {"seed": 2}, {"temperature": 0}, {"temperature": 0, "seed": 3}]
        found = [await scene.completes(prompt="a", cache_prompt=False, **more) for more in asked]
        return [(one.json()["choices"][0]["text"], one.json()["usage"]["completion_tokens"]) for one in found]

    first, again, other, greedy, greedy_again = play(part, folder=made)

    assert first == again != other
    assert greedy == greedy_again
    assert {tokens for _, tokens in (first, other, greedy)} == {30}


def test_a_full_line_is_said_at_once_and_those_in_it_are_served(parrot):
    async def part(scene):
        service = scene.service
        scene.service.current.held = True
        waiting = [asyncio.ensure_future(scene.completes(prompt="x", max_tokens=2)) for _ in range(5)]
        await scene.until(lambda: service.desk.waiting == 5)
        metrics = (await scene.client.get("/metrics")).text
        refused = await scene.completes(prompt="x", max_tokens=2)
        service.current.held = False
        service.desk.look()
        return metrics, refused, await asyncio.gather(*waiting)

    metrics, refused, answered = play(part, folder=parrot, seats=5)

    assert "slmops_queue_depth 5.0" in metrics
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert {answer.json()["choices"][0]["text"] for answer in answered} == {"yz"}


def test_more_ask_than_are_computed_together_and_all_are_answered(parrot):
    async def part(scene):
        asking = [scene.completes(prompt="x", max_tokens=7) for _ in range(12)]
        return await asyncio.gather(*asking)

    answered = play(part, folder=parrot, plan=Plan(slots=3))

    assert {answer.json()["choices"][0]["text"] for answer in answered} == {"yzxyzxy"}


def test_a_worker_that_is_killed_is_there_again_and_nobody_has_noticed(parrot):
    async def part(scene):
        worker = scene.service.current
        asking = [asyncio.ensure_future(scene.completes(prompt="x", max_tokens=2000)) for _ in range(3)]
        await scene.until(lambda: worker.active == 3)
        before = worker.pid
        os.kill(before, signal.SIGKILL)
        answered = await asyncio.gather(*asking)
        return answered, (worker.state, worker.crashes, worker.last_exit), worker.pid not in (None, before)

    answered, stands, is_new = play(part, folder=parrot)

    assert [answer.status_code for answer in answered] == [200] * 3
    assert (stands, is_new) == (("ready", 1, -signal.SIGKILL), True)


def test_who_has_lost_a_worker_is_not_refused_for_a_full_line(parrot):
    async def part(scene):
        worker = scene.service.current
        asking = [asyncio.ensure_future(scene.completes(prompt="x", max_tokens=2000)) for _ in range(3)]
        await scene.until(lambda: worker.active == 2 and scene.service.desk.waiting == 1)
        os.kill(worker.pid, signal.SIGKILL)
        return await asyncio.gather(*asking)

    answered = play(part, folder=parrot, plan=Plan(slots=2), seats=1)

    assert [answer.status_code for answer in answered] == [200] * 3


def test_a_worker_that_hangs_is_ended_and_started_again(parrot):
    async def part(scene):
        worker = scene.service.current
        os.kill(worker.pid, signal.SIGSTOP)
        answered = await scene.completes(prompt="x", max_tokens=2)
        return answered, worker.crashes

    answered, crashes = play(part, folder=parrot, plan=Plan(ping=0.1, silent=0.5))

    assert (answered.json()["choices"][0]["text"], crashes) == ("yz", 1)


def test_a_worker_that_keeps_ending_stays_down_and_says_why(parrot):
    async def part(scene):
        worker = scene.service.current
        for _ in range(5):
            await scene.until(lambda: worker.state == "ready")
            os.kill(worker.pid, signal.SIGKILL)
            await scene.until(lambda: worker.state != "ready")
        return worker.state, await scene.completes(prompt="x")

    state, refused = play(part, folder=parrot)

    assert state == "broken"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_broken")
    assert "SIGKILL" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "model",
    [None, "parrot", "parrot:1.0.0", "parrot@current", "parrot@sha256:" + "0" * 12],
)
def test_a_version_answers_to_its_names(parrot, model):
    async def part(scene):
        await scene.swap.begin(parrot, DIGEST)
        return await scene.completes(prompt="x", max_tokens=2, **({"model": model} if model else {}))

    assert play(part).json()["choices"][0]["text"] == "yz"


@pytest.mark.parametrize(
    "model", ["other", "parrot:2.0.0", "parrot@previous", "parrot@latest", "", "@current"]
)
def test_what_is_not_here_is_not_found(parrot, model):
    async def part(scene):
        return await scene.completes(prompt="x", model=model)

    refused = play(part, folder=parrot)

    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_one_model_can_be_looked_up_by_its_names(parrot):
    async def part(scene):
        found = [
            await scene.client.get(f"/v1/models/{name}") for name in ("parrot", "parrot@current", "other")
        ]
        return found, await scene.client.delete("/v1/models")

    (plain, labelled, missing), wrong = play(part, folder=parrot)

    assert (plain.json()["id"], plain.json()["digest"]) == ("parrot", DIGEST)
    assert labelled.json()["release"] == "parrot:1.0.0"
    assert missing.status_code == 404
    assert (wrong.status_code, "GET" in wrong.headers["allow"]) == (405, True)


def test_unknown_fields_are_refused_unless_the_client_can_do_without_them(parrot):
    async def part(scene):
        asked = {"prompt": "x", "max_tokens": 2, "best_of": 3}
        strict = await scene.completes(**asked)
        lenient, not_so = [
            await scene.client.post("/v1/completions", json=asked, headers={"x-slmops-lenient": said})
            for said in ("1", "0")
        ]
        return strict, lenient, not_so

    strict, lenient, not_so = play(part, folder=parrot)

    assert not_so.json() == strict.json()
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "best_of")
    assert lenient.json()["choices"][0]["text"] == "yz"
    assert lenient.headers["x-slmops-ignored"] == "best_of"


def test_answers_are_given_again_where_that_was_asked_for(parrot):
    async def part(scene):
        asked = {"prompt": "x", "max_tokens": 5, "temperature": 0}
        first, again = [await scene.completes(**asked) for _ in range(2)]
        streams = [await scene.completes(**asked, stream=True) for _ in range(2)]
        return first, again, streams, (await scene.client.get("/metrics")).text

    first, again, streams, metrics = play(part, folder=parrot, cache=1 << 20)

    assert first.json()["choices"] == again.json()["choices"]
    assert first.json()["id"] != again.json()["id"]
    assert [said.headers["content-type"].split(";")[0] for said in streams] == ["text/event-stream"] * 2
    assert streams[0].text.count("data:") == streams[1].text.count("data:")
    assert "slmops_cache_hits_total 2.0" in metrics
    named = 'digest="000000000000",label="current",release="parrot:1.0.0"'
    assert f'slmops_requests_total{{code="200",{named}}} 4.0' in metrics
    # What is given again was not computed: it tells of no speed, and no tokens of it are counted.
    assert f"slmops_time_to_first_token_seconds_count{{{named}}} 2.0" in metrics
    assert f"slmops_time_per_output_token_seconds_count{{{named}}} 2.0" in metrics
    written = 2 * first.json()["usage"]["completion_tokens"]
    assert f'slmops_tokens_total{{{named},type="output"}} {written:.1f}' in metrics


def test_moves_of_versions_and_ends_of_workers_are_counted(tiny, tmp_path, parrot):
    other = tiny.make_artifact(tmp_path / "other", "gguf", tiny.parrot_weights(), version="2.0.0")
    broken = tiny.make_artifact(tmp_path / "broken", "gguf", tiny.parrot_weights(), version="3.0.0")
    (broken / "model.gguf").write_bytes(b"GGUF, or not")
    second = "sha256:" + "1" * 64

    async def part(scene):
        await scene.swap.load(str(other), second)
        await scene.swap.gate(second)
        await scene.swap.promote(second)
        await scene.swap.roll_back("it was not better")
        with pytest.raises(RefusedError):
            await scene.swap.load(str(broken), "sha256:" + "2" * 64)
        worker = scene.service.current
        os.kill(worker.pid, signal.SIGKILL)
        await scene.until(lambda: worker.crashes and worker.state == "ready")
        return (await scene.client.get("/metrics")).text

    metrics = play(part, folder=parrot)

    assert 'slmops_swaps_total{result="promoted"} 1.0' in metrics
    assert re.search(r'slmops_model_info{.*template="[0-9a-f]{12}"', metrics)
    assert 'slmops_swaps_total{result="failed"} 1.0' in metrics
    assert 'slmops_rollbacks_total{reason="asked"} 1.0' in metrics
    assert "slmops_worker_restarts_total 1.0" in metrics


def test_when_current_breaks_and_previous_is_there_requests_wait_and_none_is_refused(tiny, tmp_path, parrot):
    other = tiny.make_artifact(tmp_path / "other", "gguf", tiny.parrot_weights(), version="2.0.0")
    second = "sha256:" + "1" * 64

    async def part(scene):
        await scene.swap.load(str(other), second)
        await scene.swap.gate(second)
        await scene.swap.promote(second)
        worker = scene.service.current
        # It ends and comes back so often that it is given up.
        worker._ends.extend([time.monotonic()] * CRASHES)
        os.kill(worker.pid, signal.SIGKILL)
        await scene.until(lambda: worker.state == "broken")
        asking = [asyncio.ensure_future(scene.completes(prompt="x", max_tokens=2)) for _ in range(3)]
        named = await scene.completes(prompt="x", model="parrot:2.0.0")
        watching = asyncio.ensure_future(scene.swap.watch())
        answers = await asyncio.gather(*asking)
        watching.cancel()
        return answers, named, (await scene.client.get("/metrics")).text

    answers, named, metrics = play(part, folder=parrot)

    assert [(each.status_code, each.json()["model"]) for each in answers] == [(200, "parrot:1.0.0")] * 3
    assert (named.status_code, named.json()["error"]["code"]) == (503, "worker_broken")
    assert 'slmops_rollbacks_total{reason="broken"} 1.0' in metrics


def test_who_asks_for_the_models_before_the_first_is_there_waits(parrot):
    async def part(scene):
        asking = asyncio.ensure_future(scene.client.get("/v1/models"))
        await asyncio.sleep(0)
        await scene.swap.begin(parrot, DIGEST)
        return await asking

    assert [each["id"] for each in play(part).json()["data"]] == ["parrot"]


def test_models_are_waited_for_no_longer_than_a_request_waits():
    async def part(scene):
        return await scene.client.get("/v1/models")

    assert play(part, max_pause=0.05).json()["data"] == []


def test_who_is_asked_beside_hears_what_is_answered_in_one_piece_too(tiny, tmp_path, parrot):
    other = tiny.make_artifact(tmp_path / "other", "gguf", tiny.parrot_weights(), version="2.0.0")
    second = "sha256:" + "1" * 64

    async def part(scene):
        await scene.swap.load(str(other), second)
        await scene.swap.gate(second)
        await scene.swap.deal({}, {"candidate": 1.0})
        answered = await scene.completes(prompt="x", max_tokens=3)
        beside = scene.service.comparison
        async with asyncio.timeout(20):
            await scene.until(lambda: beside.report()["shadow"]["requests"])
        return answered, beside.report()["agreement"]

    answered, agreement = play(part, folder=parrot)

    assert answered.status_code == 200
    assert agreement["exact"] == 1


def test_a_worker_that_is_not_there_is_not_asked(parrot):
    async def part(scene):
        worker = scene.service.current
        os.kill(worker.pid, signal.SIGKILL)
        await scene.until(lambda: worker.state == "restarting")
        with pytest.raises(WorkerLostError):
            await anext(worker.ask("completion", b'{"prompt": "x"}', "a", 7))
        return worker.active

    assert play(part, folder=parrot) == 0


def test_a_worker_comes_back_when_there_is_room_for_processes_again(parrot):
    async def part(scene):
        worker = scene.service.current
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
            os.kill(worker.pid, signal.SIGKILL)
            await scene.until(lambda: worker.crashes > 1)
            why = worker.why
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
        return why, await scene.completes(prompt="x", max_tokens=2)

    why, answered = play(part, folder=parrot)

    assert "no process could be started" in why
    assert answered.json()["choices"][0]["text"] == "yz"


def test_a_worker_that_does_not_load_again_in_time_is_ended(parrot):
    async def part(scene):
        worker = scene.service.current
        os.kill(worker.pid, signal.SIGKILL)
        await scene.until(lambda: worker.crashes > 1)
        return worker.why

    assert "did not load" in play(part, folder=parrot, plan=Plan(load=0.001))


def a_stream(**asked):
    """What a server tells an application of a request for a stream: its scope, and its body."""
    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "POST", "path": "/v1/completions"}
    scope |= {"raw_path": b"/v1/completions", "query_string": b"", "root_path": "", "scheme": "http"}
    scope |= {"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1)}
    return scope, {"type": "http.request", "body": json.dumps({**asked, "stream": True}).encode()}


def test_who_does_not_take_his_answer_holds_nobody_up(parrot):
    scope, body = a_stream(prompt="x", max_tokens=50)

    async def part(scene):
        said, full = [body], asyncio.Event()

        async def receive():
            return said.pop() if said else await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.body":
                full.set()
                await asyncio.Event().wait()

        stuck = asyncio.ensure_future(scene.app(scope, receive, send))
        await full.wait()
        async with asyncio.timeout(20):
            answered = await scene.completes(prompt="x", max_tokens=2)
        stuck.cancel()
        with suppress(asyncio.CancelledError):
            await stuck
        return answered, scene.service.current.taken

    answered, taken = play(part, folder=parrot, plan=Plan(slots=1))

    assert (answered.json()["choices"][0]["text"], taken) == ("yz", 0)


def test_a_client_that_has_left_as_its_stream_begins_is_no_error_of_ours(parrot):
    scope, body = a_stream(prompt="x", max_tokens=2000)

    async def part(scene):
        heard = []

        async def receive():
            heard.append(None)
            if len(heard) == 1:
                return body
            if len(heard) == 2:
                # It is there while the first word is waited for, and gone when that is to be sent.
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(_message):
            await asyncio.sleep(0)

        await scene.app(scope, receive, send)
        return (await scene.client.get("/metrics")).text, scene.service.current.taken

    metrics, taken = play(part, folder=parrot)

    assert re.findall(r'code="(\d+)"', metrics) == ["499"]
    assert taken == 0


@pytest.mark.parametrize("limit", [None, 10**10])
def test_what_a_worker_has_mapped_of_files_is_not_free_for_another(parrot, limit):
    reading = Reading(limit=10**9, used=10**8, available=5 * 10**8)

    async def part(scene):
        scene.service.reading = reading
        (worker,) = scene.service.house.workers.values()
        return scene.service.memory(), file_bytes(worker.pid), resident_bytes(worker.pid)[0]

    memory, mapped, resident = play(part, folder=parrot, memory_limit=limit)

    assert 0 < mapped < resident
    # It was read twice of a process that lives.
    assert memory.residents == {DIGEST: pytest.approx(resident, rel=0.05)}
    assert memory.available == reading.available - mapped
    assert memory.limit == (limit or reading.limit)
    assert memory.used >= (0.9 * resident if limit else reading.used + mapped)


def test_what_is_nested_too_deep_is_refused_at_every_depth(parrot):
    asked = {
        **CHAT,
        "max_tokens": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n"}},
    }

    async def part(scene):
        found = set()
        for depth in (100, *range(900, 1000, 4)):
            schema = '{"items":' * depth + "{}" + "}" * depth
            body = json.dumps(asked).replace('"name"', f'"schema": {schema}, "name"')
            found.add((await scene.client.post("/v1/chat/completions", content=body)).status_code)
        return found

    assert play(part, folder=parrot, cache=1 << 20) == {200, 400}


def test_what_was_left_out_is_told_whatever_it_is_called(parrot, run_daemon):
    with run_daemon(parrot) as running, running.client() as client:
        asked = {"prompt": "x", "max_tokens": 2, "best of ": 3}
        answer = client.post("/v1/completions", json=asked, headers={"x-slmops-lenient": "1"})

    assert (answer.status_code, answer.headers["x-slmops-ignored"]) == (200, r"best\u0020of\u0020")

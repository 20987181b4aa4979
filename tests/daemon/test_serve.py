"""The HTTP server around a model: what it says when, without a socket."""

import asyncio
import threading

import httpx
import pytest

from slmops.daemon.load import describe, load
from slmops.daemon.serve import Service, application

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def scene(service, play):
    """Run `play` with a client of the application, all in one event loop."""

    async def run():
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await play(client)

    try:
        return asyncio.run(run())
    finally:
        service.close()


@pytest.fixture
def service(parrot):
    return Service(describe(parrot), "sha256:00", None)


def opened(parrot, service):
    return service.open(lambda: load(parrot, service.description, lambda: False))


def test_while_the_model_loads_the_daemon_is_alive_and_not_ready(parrot, service):
    go_on = threading.Event()

    def slow():
        go_on.wait()
        return load(parrot, service.description, lambda: False)

    async def play(client):
        loading = asyncio.ensure_future(service.open(slow))
        before = [await client.get("/healthz"), await client.get("/readyz")]
        before.append(await client.post("/v1/chat/completions", json=CHAT))
        go_on.set()
        await loading
        return before, await client.get("/readyz")

    (health, ready, asked), after = scene(service, play)
    assert health.status_code == 200
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "loading")
    assert int(asked.headers["retry-after"]) >= 1
    assert after.status_code == 200
    said = {"ready": True, "release": "parrot:1.0.0", "digest": "sha256:00", "scores": True}
    assert after.json() == said


def test_a_model_that_does_not_load_is_never_ready(service):
    def broken():
        raise ValueError("no such luck")

    async def play(client):
        with pytest.raises(ValueError, match="no such luck"):
            await service.open(broken)
        return await client.get("/readyz")

    assert scene(service, play).status_code == 503


def test_without_a_chat_template_chat_says_where_to_go(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "gguf", tiny.parrot_weights(), chat_template=None)
    service = Service(describe(made), "", None)

    async def play(client):
        await opened(made, service)
        chat = await client.post("/v1/chat/completions", json=CHAT)
        return chat, await client.post("/v1/completions", json={"prompt": "G"})

    chat, plain = scene(service, play)
    assert chat.status_code == 400
    assert "use /v1/completions" in chat.json()["error"]["message"]
    assert plain.status_code == 200


def test_an_answer_ends_where_the_context_does(tiny, tmp_path):
    made = tiny.make_artifact(tmp_path / "artifact", "onnx", tiny.parrot_weights(), context=50)
    service = Service(describe(made), "", None)

    async def play(client):
        await opened(made, service)
        return await client.post("/v1/completions", json={"prompt": "x" * 39, "max_tokens": 1000})

    said = scene(service, play).json()
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["usage"] == {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}


def test_the_release_says_how_to_choose_when_the_request_does_not(tiny, tmp_path):
    made = tiny.make_artifact(
        tmp_path / "artifact",
        "gguf",
        tiny.random_weights(),
        generation={"temperature": 1.5, "max_tokens": 30.0},
    )
    service = Service(describe(made), "", None)

    async def play(client):
        await opened(made, service)
        asked = [{"seed": 1}, {"seed": 1}, {"seed": 2}, {"temperature": 0}, {"temperature": 0, "seed": 3}]
        found = [await client.post("/v1/completions", json={"prompt": "a", **more}) for more in asked]
        return [(one.json()["choices"][0]["text"], one.json()["usage"]["completion_tokens"]) for one in found]

    first, again, other, greedy, greedy_again = scene(service, play)
    assert first == again != other
    assert greedy == greedy_again
    assert {tokens for _, tokens in (first, other, greedy)} == {30}


def test_a_full_queue_is_said_at_once_and_those_in_it_are_served(parrot, service):
    go_on, ask = threading.Event(), {"prompt": "x", "max_tokens": 2}

    async def play(client):
        await opened(parrot, service)
        busy = asyncio.ensure_future(service.desk.run(go_on.wait))
        waiting = [asyncio.ensure_future(client.post("/v1/completions", json=ask)) for _ in range(16)]
        while service.desk.waiting < 16:  # noqa: ASYNC110  (nothing tells of it but the number itself)
            await asyncio.sleep(0)
        metrics = await client.get("/metrics")
        refused = await client.post("/v1/completions", json=ask)
        go_on.set()
        await busy
        return metrics.text, refused, await asyncio.gather(*waiting)

    metrics, refused, answered = scene(service, play)
    assert "slmops_queue_depth 16.0" in metrics
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert {answer.json()["choices"][0]["text"] for answer in answered} == {"yz"}

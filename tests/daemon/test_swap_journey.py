"""Swaps of real workers behind a real router: under load, without room, and killed at every record."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from slmops.daemon import ctl, journal
from slmops.daemon.refusal import RefusedError
from slmops.daemon.versions import fold
from slmops.errors import SlmopsError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

GIVEN, NEXT, BAD = (f"sha256:{letter * 64}" for letter in "abc")
MEMORY = 120 << 20


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Artifact folders by what is the matter with them."""
    folder = tmp_path_factory.mktemp("models")

    def make(name, version, expected, **changes):
        said = {"memory_bytes": MEMORY, "golden": "golden.jsonl", "version": version, **changes}
        there = tiny.make_artifact(folder / name, "gguf", tiny.parrot_weights(), **said)
        golden = {"messages": [{"role": "user", "content": "hi"}], "expect": expected}
        (there / "golden.jsonl").write_text(json.dumps(golden) + "\n", encoding="utf-8")
        return there

    made = {
        "given": make("given", "1.0.0", tiny.SENTENCE),
        "next": make("next", "1.1.0", tiny.SENTENCE),
        "answers-wrongly": make("answers-wrongly", "1.2.0", "something else"),
        "corrupt": make("corrupt", "1.3.0", tiny.SENTENCE),
        "too-big": make("too-big", "1.4.0", tiny.SENTENCE, memory_bytes=1 << 50),
    }
    whole = (made["corrupt"] / "model.gguf").read_bytes()
    (made["corrupt"] / "model.gguf").write_bytes(whole[: len(whole) // 2])
    return made


@contextmanager
def router(tiny, models, folder, *more, under=()):
    """Run a daemon that has an admin socket and a journal; give it, a client of it, and what posts verbs."""
    said = ("--digest", GIVEN, "--admin", folder / "admin.sock", "--state", folder / "state", *more)
    (folder / "port").unlink(missing_ok=True)
    with tiny.daemon(models["given"], folder, *said, under=under) as running, running.client() as client:
        yield running, client, lambda verb, **body: ctl.call(folder / "admin.sock", "POST", verb, body)


class Load:
    """Clients that ask without pause, and what they were answered."""

    def __init__(self, url, count):
        self._stop, self.answers = threading.Event(), []
        self._pool = ThreadPoolExecutor(count)
        self._asking = [self._pool.submit(self._ask, url) for _ in range(count)]

    def _ask(self, url):
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}
        with httpx.Client(base_url=url, timeout=60) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/chat/completions", json=body)
                said = answer.json()
                finish = said["choices"][0]["finish_reason"] if answer.is_success else said["error"]
                self.answers.append((answer.status_code, finish))

    def end(self):
        self._stop.set()
        for asking in self._asking:
            asking.result()
        self._pool.shutdown()
        return self.answers


def test_no_request_fails_while_versions_are_swapped_and_bad_ones_are_offered(tiny, models, tmp_path):
    with router(tiny, models, tmp_path) as (running, _, do):
        load = Load(running.url, 4)
        for _ in range(3):
            for folder, digest in ((models["next"], NEXT), (models["given"], GIVEN)):
                do("load", folder=str(folder), digest=digest)
                do("gate", digest=digest)
                do("promote", digest=digest)
            for bad in ("corrupt", "too-big"):
                with pytest.raises(RefusedError):
                    do("load", folder=str(models[bad]), digest=BAD)
            do("load", folder=str(models["answers-wrongly"]), digest=BAD)
            assert do("gate", digest=BAD)["outcome"] == "fail"
        assert set(load.end()) == {(200, "stop")}
        state = fold(journal.read(tmp_path / "state"))
        assert state.labels == {"current": GIVEN, "previous": NEXT}
        assert "golden" in state.stage(BAD).failure["why"]


def test_without_room_for_both_requests_wait_and_none_fails(tiny, models, tmp_path):
    with router(tiny, models, tmp_path, "--memory-limit", "210MiB") as (running, client, do):
        load = Load(running.url, 4)
        assert do("load", folder=str(models["next"]), digest=NEXT)["plan"] == "sequential"
        do("gate", digest=NEXT)
        do("promote", digest=NEXT)
        assert do("load", folder=str(models["answers-wrongly"]), digest=BAD)["plan"] == "sequential"
        assert do("gate", digest=BAD)["outcome"] == "fail"
        assert client.get("/readyz").json()["digest"] == NEXT
        assert do("rollback")["digest"] == GIVEN
        assert set(load.end()) == {(200, "stop")}


def steps(do, models):
    """Each kind of record there is, in an order that has them all."""
    do("load", folder=str(models["next"]), digest=NEXT)
    do("gate", digest=NEXT)
    do("promote", digest=NEXT)
    do("load", folder=str(models["answers-wrongly"]), digest=BAD)
    do("gate", digest=BAD)
    do("rollback")
    do("load", folder=str(models["next"]), digest=NEXT)
    do("drop", digest=NEXT)


RECORDS = 17
"""That `steps` leaves, with the five of the start."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("last", range(2, RECORDS + 1))
def test_a_router_killed_at_any_record_serves_a_gated_version_again(tiny, models, tmp_path, last):
    state = tmp_path / "state"
    killer = ("strace", "-f", "-qq", "-o", tmp_path / "strace", "-e", "trace=fsync")
    killer = (*killer, "-e", f"inject=fsync:signal=SIGKILL:when={last}")
    with (
        suppress(SlmopsError, httpx.HTTPError, AssertionError),
        router(tiny, models, tmp_path, under=killer) as (running, _, do),
    ):
        steps(do, models)
        running.process.wait(20)
    records = journal.read(state)
    assert len(records) == last
    before = fold(records)
    with router(tiny, models, tmp_path) as (_, client, _do):
        found = client.get("/readyz").json()["digest"]
        assert found in (before.current or GIVEN, before.previous)
        assert fold(journal.read(state)).stage(found).gated
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).is_success

"""Swaps of real models in the real daemon, under load, and with its processes killed at each step."""

import http.client
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from slmops import digest as digests
from slmops.artifact import golden
from slmops.artifact.golden import Golden
from slmops.daemon.tend import CRASHES
from slmops.device import admin, journal, service, steer
from slmops.device.places import read_json
from slmops.registry.layout import Layout
from slmops.registry.release import artifact, publish

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]
SENTENCE = "Grün, 猫!"
QUESTION = {"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 24}


@pytest.fixture(scope="module")
def tiny():
    """The making of small artifacts, from the tests of the daemon."""
    place = Path(__file__).parents[1] / "daemon" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_artifacts", place)
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def releases(tiny, shop, tmp_path_factory):
    """Make a release of the parrot; `expect` is what its golden prompt must answer."""
    parcel = type(shop.release())
    made = {}

    def release(version, expect=SENTENCE, *, torn=False):
        if version in made:
            return made[version]
        home = tmp_path_factory.mktemp("real")
        said = {"version": version, "golden": golden.FILE_NAME, "context": 256, "arch": platform.machine()}
        folder = tiny.make_artifact(home / "artifact", "gguf", tiny.parrot_weights(), **said)
        prompts = [Golden(messages=QUESTION["messages"], max_tokens=24, expect=expect)]
        (folder / golden.FILE_NAME).write_text(golden.render(prompts))
        if torn:
            (folder / "model.gguf").write_bytes(b"nothing that a model begins with")
        signed = publish(
            Layout(home / "registry"), {"local": folder}, created="2026-01-01T00:00:00Z", key=shop.key
        )
        entry = signed.release.entry("local")
        files = {each.name: each.read_bytes() for each in folder.iterdir()}
        slot = digests.hexdigits(entry.blob.digest)
        made[version] = parcel(signed, artifact(Layout(home / "registry"), entry), slot, files)
        return made[version]

    return release


@pytest.fixture
def device(box):
    """A device whose daemon is the real one."""
    return box.enroll(runtime=[sys.executable])


def answer(device, timeout=60.0):
    """Ask as an application does; return status and answer."""
    line = connect(device, timeout)
    try:
        return asked(line)
    finally:
        line.close()


def connect(device, timeout=60.0):
    """A connection that is never made anew: what is lost over it is lost."""
    line = http.client.HTTPConnection("127.0.0.1", int(device.places.port.read_text()), timeout=timeout)
    line.connect()
    line.auto_open = 0
    return line


def asked(line):
    """Ask over a connection; return status and answer."""
    line.request("POST", "/v1/chat/completions", json.dumps(QUESTION), {"Content-Type": "application/json"})
    said = line.getresponse()
    body = json.loads(said.read())
    return said.status, body["choices"][0]["message"]["content"] if said.status == 200 else body


class Load:
    """What applications were told that ask without a pause."""

    def __init__(self):
        self.failed, self.seconds = [], []

    def __str__(self):
        at = sorted(self.seconds)
        half, most = at[len(at) // 2], at[int(len(at) * 0.99)]
        return (
            f"{len(at)} requests, {len(self.failed)} failed; p50 {half * 1e3:.0f} ms, p99 {most * 1e3:.0f} ms"
        )


@contextmanager
def load(device, clients=4, *, keep=False):
    """Have applications ask all the while, each over a connection of its own if they `keep` one."""
    seen, over = Load(), threading.Event()

    def ask():
        line = connect(device) if keep else None
        while not over.is_set():
            began = time.monotonic()
            try:
                told = answer(device) if line is None else asked(line)
            except (OSError, http.client.HTTPException) as error:
                told = repr(error)
            seen.seconds.append(time.monotonic() - began)
            if told != (200, SENTENCE):
                seen.failed.append(told)
        if line is not None:
            line.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def state(device):
    return read_json(device.places.daemon) or {}


def test_swaps_under_load_cost_no_request(device, releases, capsys):
    device.commit(releases("1.0.0"))
    router = device.daemon()

    with load(device) as seen:
        for version in ("1.1.0", "1.2.0", "1.3.0"):
            device.commit(releases(version))

    with capsys.disabled():
        print(f"\nthree swaps under load: {seen}")  # noqa: T201 (times are read, not judged)
    assert seen.failed == []
    assert device.serves() == releases("1.3.0").slot
    assert device.daemon() == router


def test_a_candidate_that_fails_under_load_costs_no_request(device, releases, capsys):
    good = releases("1.0.0")
    device.commit(good)

    with load(device) as seen:
        wrong = device.activate(releases("2.0.0", expect="something else"))
        torn = device.activate(releases("2.1.0", torn=True))

    with capsys.disabled():
        print(f"\ntwo bad candidates under load: {seen}")  # noqa: T201
    assert (wrong["code"], torn["code"]) == ("GATE_QUALITY", "RUN_CRASHLOOP")
    assert seen.failed == []
    assert device.serves() == good.slot


def test_an_operator_who_goes_back_under_load_costs_no_request(device, releases):
    first, second = releases("1.0.0"), releases("1.1.0")
    device.commit(first)
    device.commit(second)
    said = {"code": "OPERATOR", "message": "taken back", "ready_seconds": 60.0, "gate_seconds": 60.0}

    with load(device) as seen:
        back = device.get("roll-back", slot=second.slot, **said)

    assert (back["outcome"], back["standing"]["slot"]) == ("pass", first.slot)
    assert seen.failed == []


def test_other_settings_replace_the_router_and_cost_no_request(device, releases):
    parcel = releases("1.0.0")
    device.commit(parcel)
    routers, idle = {device.daemon()}, connect(device)
    assert asked(idle) == (200, SENTENCE)

    with load(device, 2) as anew, load(device, 2, keep=True) as kept:
        for slots in (2, 3):
            device.enroll(runtime=[sys.executable], daemon={"slots": slots})
            device.commit(parcel)
            routers.add(device.daemon())

    assert len(routers) == 3
    assert (anew.failed, kept.failed) == ([], [])
    assert asked(idle) == (200, SENTENCE)
    idle.close()


def test_a_newer_agent_goes_on_with_the_connections_of_the_router_that_it_replaces(device, releases, until):
    parcel = releases("1.0.0")
    device.commit(parcel)
    router, idle, newer = device.daemon(), connect(device), device.newer_agent()
    device.ask("hello", agent=newer)
    until(lambda: device.supervised_by() == f"agent/{newer.name}")

    device.enroll(runtime=[sys.executable], daemon={"slots": 2})
    device.commit(parcel)

    assert device.daemon() != router
    assert asked(idle) == (200, SENTENCE)
    idle.close()


@contextmanager
def half_asked(device):
    """Have a router that ends wait for the rest of a request, which it has heard the beginning of."""
    with socket.create_connection(("127.0.0.1", int(device.places.port.read_text())), 60) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")
        # A whole round through the same process: it has heard what was sent before.
        assert answer(device) == (200, SENTENCE)
        yield


def test_connections_outlive_a_router_that_ends_by_itself(device, releases, until):
    device.commit(releases("1.0.0"))
    router, idle = device.daemon(), connect(device)
    assert asked(idle) == (200, SENTENCE)

    with half_asked(device):
        os.kill(router, signal.SIGTERM)
        until(lambda: device.daemon() not in (router, None))

    assert asked(idle) == (200, SENTENCE)
    idle.close()


def test_a_supervisor_that_ends_leaves_nobody_waiting_for_a_router_that_never_comes(device, releases, until):
    device.commit(releases("1.0.0"))
    router, idle = device.daemon(), connect(device)
    assert asked(idle) == (200, SENTENCE)

    with half_asked(device):
        os.kill(device.supervisor(), signal.SIGTERM)
        ended = idle.sock.recv(1)

        assert (ended, device.daemon()) == (b"", router)
    idle.close()
    until(lambda: device.supervisor() is None)


def test_an_operator_at_the_device_is_told_who_moves_its_versions(device, releases, until):
    first, second = releases("1.0.0"), releases("1.1.0")
    device.commit(first)
    device.commit(second)

    refused = until(admin.Errand(device.places, "rollback", {}).look)

    assert (refused.status, refused.said["error"]["code"]) == (409, "steered")

    assert admin.status(device.places)["labels"]["current"] == f"sha256:{second.slot}"
    assert device.serves() == second.slot


@pytest.mark.parametrize("whom", ["router", "worker", "supervisor"])
@pytest.mark.parametrize("when", ["committed", "on trial", "proved"])
def test_whoever_is_killed_whenever_a_gated_version_answers_again(device, releases, until, when, whom):
    first, second = releases("1.0.0"), releases("1.1.0")
    device.commit(first)
    verdicts = []
    if when == "proved":
        assert device.activate(second)["outcome"] == "pass"
    with _trial(device, second, verdicts, until) if when == "on trial" else nullcontext():
        said = state(device)
        serving = second.slot if when == "proved" else first.slot
        pids = {"router": said["child"]["pid"], "worker": said["workers"][serving]}
        os.kill({**pids, "supervisor": device.supervisor()}[whom], signal.SIGKILL)
        if whom == "supervisor":
            until(lambda: device.supervisor() is None)
            service.ensure(device.places, device.places.read_config())
        until(lambda: _answers(device))

    assert device.serves() in (first.slot, second.slot)
    assert [each["outcome"] for each in verdicts] in ([], ["pass"], ["fail"], ["inconclusive"])


@contextmanager
def _trial(device, parcel, verdicts, until):
    """Have a release on trial that its gate is still to be held for; its verdict comes with the end."""
    slot = device.take(parcel)
    times = {"ready_seconds": 60.0, "gate_seconds": 60.0, "confirm_seconds": 60.0}
    thread = threading.Thread(target=lambda: verdicts.append(device.get("activate", slot=slot, **times)))
    thread.start()
    until(lambda: journal.standing(device.places).trial is not None)
    try:
        yield
    finally:
        thread.join()


def test_a_committed_version_that_keeps_ending_is_not_replaced_by_the_one_before(device, releases, until):
    first, second = releases("1.0.0"), releases("1.1.0")
    device.commit(first)
    device.commit(second)
    ended = set()

    def end_it():
        status = admin.status(device.places)
        if status is not None and status["labels"]:
            assert status["labels"]["current"] == f"sha256:{second.slot}"
        pid = steer.version(status, second.slot).get("pid")
        if pid is not None and pid not in ended:
            os.kill(pid, signal.SIGKILL)
            ended.add(pid)
        return len(ended) > CRASHES

    until(end_it)
    until(lambda: _answers(device))
    assert device.serves() == second.slot


def test_with_keys_a_device_gates_tells_and_answers_its_operator_and_nobody_else(device, releases, until):
    first, second = releases("1.0.0"), releases("1.1.0")
    device.commit(first)
    key = device.get("keys", action="create", name="app", role="infer")["key"]
    until(lambda: _status(device) == 401)

    device.commit(second)

    assert device.serves() == second.slot
    told = device.ask("ask", prompt="Hello?", max_tokens=24, timeout=60.0)
    assert "".join(note["text"] for note in told.notes) == SENTENCE
    assert _status(device) == 401
    assert _status(device, Authorization=f"Bearer {key}") == 200
    assert (device.places.keys.stat().st_mode & 0o777, device.places.admin.stat().st_mode & 0o777) == (
        0o600,
        0o600,
    )


@pytest.mark.parametrize("host", ["::1", "127.0.0.2", "localhost"])
def test_any_address_of_this_machine_alone_will_do(device, releases, host):
    device.enroll(runtime=[sys.executable], daemon={"host": host})

    device.commit(releases("1.0.0"))

    assert device.serves() == releases("1.0.0").slot


def _status(device, **headers):
    line = http.client.HTTPConnection("127.0.0.1", int(device.places.port.read_text()), timeout=30)
    try:
        line.request("GET", "/v1/models", headers=headers)
        return line.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        line.close()


def _answers(device):
    try:
        return answer(device) == (200, SENTENCE)
    except (OSError, http.client.HTTPException, ValueError):
        return False

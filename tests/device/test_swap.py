"""A swap costs no request: the new version is looked at beside the one that serves, and the socket stays."""

import http.client
import json
import os
import signal
import socket
import threading
import zipapp
from contextlib import contextmanager
from pathlib import Path

import pytest

from slmops.device import journal, renew, service
from slmops.device.places import read_json


def question(device, prompt="One and one?", timeout=30.0):
    """Ask as an application does; return status and answer."""
    port = int(device.places.port.read_text())
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        line.request("POST", "/v1/completions", json.dumps({"prompt": prompt}))
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())["choices"][0]["text"]
    finally:
        line.close()


@contextmanager
def asked_all_the_while(device, clients=4):
    """Have applications ask without a pause; give what they were told, or what went wrong."""
    told, over = [], threading.Event()

    def ask():
        while not over.is_set():
            try:
                told.append(question(device))
            except (OSError, http.client.HTTPException) as error:
                told.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


def kinds(device):
    return [record["kind"] for record in journal.read(device.places.journal)]


def workers(device):
    return (read_json(device.places.daemon) or {})["workers"]


def test_a_new_version_takes_over_and_nobody_who_asks_meanwhile_is_refused(device, shop):
    device.commit(shop.release())
    router = device.daemon()
    newer = {"One and one?": "two", "Colour of grass?": "green", "More?": "more"}

    with asked_all_the_while(device) as told:
        device.commit(shop.release("1.1.0", answers=newer))

    assert set(told) == {(200, "two")}
    assert question(device, "More?") == (200, "more")
    assert device.daemon() == router


def test_a_candidate_that_fails_is_never_asked_by_an_application_and_the_old_one_never_stops(device, shop):
    good = shop.release()
    device.commit(good)
    router, worker = device.daemon(), workers(device)[good.slot]

    with asked_all_the_while(device) as told:
        wrong = device.activate(shop.release("1.1.0", answers={"One and one?": "three"}))
        broken = device.activate(shop.release("1.2.0", exit=3))

    assert (wrong["code"], broken["code"]) == ("GATE_QUALITY", "RUN_CRASHLOOP")
    assert set(told) == {(200, "two")}
    assert (device.daemon(), workers(device)) == (router, {good.slot: worker})


def test_what_is_proved_serves_and_the_one_before_it_is_there_until_the_trial_is_confirmed(
    device, shop, until
):
    first, second = shop.release(), shop.release("1.1.0")
    device.commit(first)

    assert device.activate(second)["outcome"] == "pass"

    until(lambda: set(workers(device)) == {first.slot, second.slot})
    assert device.serves() == second.slot
    device.get("confirm", slot=second.slot)
    until(lambda: set(workers(device)) == {second.slot})


def test_while_live_answers_are_watched_what_was_proved_serves_and_cannot_be_confirmed_yet(device, shop):
    device.commit(shop.release())
    parcel = shop.release("1.1.0", spools=[200])

    assert device.activate(parcel, gate={"watch": 0.2, "most_errors": 0.3})["outcome"] == "pass"

    records = [each for each in journal.read(device.places.journal) if each["kind"] == "proved"][1:]
    assert [each["watched"] for each in records] == [False, True]
    device.get("confirm", slot=parcel.slot)


@pytest.mark.journey
def test_whoever_comes_while_a_router_starts_again_waits_and_is_answered(device, shop):
    device.commit(shop.release())
    router = device.daemon()
    os.kill(router, signal.SIGSTOP)
    port = int(device.places.port.read_text())
    with socket.create_connection(("127.0.0.1", port), 30) as line:
        os.kill(router, signal.SIGKILL)

        line.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")

        assert line.recv(100).startswith(b"HTTP/1.1 200")
    assert device.daemon() != router


@pytest.mark.journey
def test_a_supervisor_that_becomes_a_newer_agent_keeps_the_socket(device, shop, until):
    device.commit(shop.release())
    port, router = device.places.port.read_text(), device.daemon()
    newer = device.newer_agent()
    device.ask("hello", agent=newer)
    until(lambda: device.supervised_by() == f"agent/{newer.name}")

    os.kill(router, signal.SIGKILL)

    assert question(device) == (200, "two")
    assert device.places.port.read_text() == port
    assert device.daemon() != router


@pytest.mark.journey
def test_a_worker_that_ends_on_trial_is_counted_and_too_many_ends_go_back(device, shop, until):
    good, frail = shop.release(), shop.release("1.1.0")
    device.commit(good)
    router = device.daemon()
    assert device.activate(frail)["outcome"] == "pass"

    def end_it():
        pid = workers(device).get(frail.slot)
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
        return device.serves() == good.slot

    until(end_it)
    failure = device.status()["standing"]["failure"]
    assert (failure["code"], failure["slot"]) == ("RUN_CRASHLOOP", frail.slot)
    assert device.daemon() == router


@pytest.mark.journey
def test_other_flags_replace_the_router_and_nobody_is_refused_meanwhile(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    router = device.daemon()
    device.enroll(daemon={"slots": 2, "cors": ["https://a.example", "https://b.example"]})

    with asked_all_the_while(device) as told:
        device.commit(parcel)

    assert {each for each in told if isinstance(each, tuple)} == {(200, "two")}
    assert not [each for each in told if "Refused" in str(each)]
    words = Path(f"/proc/{device.daemon()}/cmdline").read_text().split("\0")
    assert device.daemon() != router
    assert words[words.index("--slots") + 1] == "2"
    assert words.count("--cors") == 2
    assert kinds(device)[-3:] == ["activated", "proved", "confirmed"]


@pytest.mark.journey
def test_who_is_left_to_a_router_that_takes_nobody_up_is_told_so(device, shop):
    parcel = shop.release(leaves=True)
    device.commit(parcel)
    port = int(device.places.port.read_text())
    with socket.create_connection(("127.0.0.1", port), 30) as line:
        line.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
        device.enroll(daemon={"slots": 2})

        device.commit(parcel)

        while line.recv(1000):
            pass


@pytest.mark.journey
def test_a_daemon_of_before_is_served_from_as_it_always_was_and_a_newer_one_follows_it(device, shop):
    first, second, third = shop.release(elder=True), shop.release("1.1.0", elder=True), shop.release("1.2.0")
    device.commit(first)
    assert question(device) == (200, "two")

    device.commit(second)
    assert device.serves() == second.slot
    elder = device.daemon()
    device.commit(third)

    assert device.serves() == third.slot
    assert device.daemon() != elder
    assert len(device.daemons()) == 1


@pytest.mark.journey
def test_a_device_that_has_no_release_any_more_refuses_at_once(device, shop, until):
    parcel = shop.release()
    device.commit(parcel)
    port = int(device.places.port.read_text())
    said = {"code": "OPERATOR", "message": "empty it", "ready_seconds": 30.0, "gate_seconds": 30.0}

    device.get("roll-back", slot=parcel.slot, even_to_none=True, **said)

    until(lambda: not device.places.port.exists())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


@pytest.mark.journey
def test_a_router_that_nobody_wrote_down_is_ended_by_the_next_supervisor(device, shop, until):
    device.commit(shop.release())
    orphan = device.daemon()
    os.kill(device.supervisor(), signal.SIGKILL)
    until(lambda: device.supervisor() is None)
    device.places.daemon.unlink()

    service.ensure(device.places, device.places.read_config())

    until(lambda: device.daemons() == [device.daemon()])
    assert device.daemon() != orphan
    assert question(device) == (200, "two")


@pytest.mark.journey
def test_an_agent_of_before_sockets_is_left_no_socket_that_nobody_answers(device, shop, until, tmp_path):
    device.commit(shop.release())
    port = int(device.places.port.read_text())
    elder = tmp_path / "elder"
    elder.mkdir()
    (elder / "__main__.py").write_text("import time; time.sleep(600)")
    archive = device.places.root / "agent/elder.pyz"
    zipapp.create_archive(elder, archive)
    supervisor = device.supervisor()
    renew.point(device.places, f"agent/{archive.name}")

    until(lambda: not device.daemons())
    try:
        with pytest.raises(ConnectionRefusedError):
            until(lambda: socket.create_connection(("127.0.0.1", port), 5).close())
    finally:
        os.kill(supervisor, signal.SIGKILL)


@pytest.mark.journey
def test_where_keys_are_asked_for_a_daemon_that_knows_none_serves_nobody(device, shop):
    good, elder = shop.release(), shop.release("1.1.0", elder=True)
    device.commit(good)
    device.get("keys", action="create", name="app", role="infer")
    device.enroll(daemon={"slots": 2})

    verdict = device.activate(elder)

    assert (verdict["outcome"], verdict["standing"]["slot"]) == ("fail", good.slot)
    assert device.serves() == good.slot


@pytest.mark.journey
def test_no_key_is_made_while_a_daemon_of_before_serves_that_would_not_ask_for_it(device, shop):
    device.commit(shop.release("1.1.0", elder=True))

    refused = device.ask("keys", action="create", name="app", role="infer")

    assert (refused.kind, refused.said["message"]) == ("failed", "the daemon that serves here knows no keys")
    assert not device.places.keys.exists()


def test_a_daemon_that_others_could_reach_without_a_key_is_refused_before_anything_changes(device, shop):
    parcel = shop.release()
    device.commit(parcel)
    router = device.daemon()
    device.enroll(daemon={"host": "0.0.0.0"})

    refused = device.ask("activate", slot=parcel.slot, **TIMES)

    assert (refused.kind, refused.said["remedy"]) == (
        "failed",
        "Make one first: slmops device keys DEVICE create --name NAME.",
    )
    assert device.daemon() == router
    assert question(device) == (200, "two")


TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}

"""The port of a device is held whoever answers at it, and the router is asked by its keeper."""

import io
import json
import os
import socket
import threading
import zipfile

import pytest

from slmops.daemon import passage as passages
from slmops.device import admin, passage, ready
from slmops.device.admin import Errand
from slmops.device.listen import HELD, LOOPBACK, Listener, is_loopback, knows_sockets
from slmops.fleet.agent_bundle import bundle
from slmops.wire import PASSAGE


@pytest.fixture
def listener(places):
    made = Listener(places)
    yield made
    made.close()


def reachable(places):
    with socket.create_connection((LOOPBACK, int(places.port.read_text())), 5) as line:
        return line.getpeername()[1]


def test_a_port_is_held_and_named_until_it_is_let_go(places, listener):
    first = listener.open(LOOPBACK, 0)
    port = reachable(places)

    assert listener.open(LOOPBACK, 0) == first
    assert reachable(places) == port
    listener.close()
    assert not places.port.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port), 5)


def test_another_address_is_another_socket(places, listener):
    listener.open(LOOPBACK, 0)
    port = reachable(places)

    listener.open("0.0.0.0", 0)

    assert reachable(places) != port


def test_a_port_that_is_somebody_elses_is_an_error(listener):
    with (
        socket.create_server((LOOPBACK, 0)) as other,
        pytest.raises(OSError, match="Address already in use"),
    ):
        listener.open(LOOPBACK, other.getsockname()[1])


def test_what_is_handed_over_is_taken_up_by_the_next_and_is_no_ones_childs(places, listener, tmp_path):
    numbers = listener.open(LOOPBACK, 0)
    port = reachable(places)
    listener.hand_over(agent(tmp_path, "now"))
    assert all(map(os.get_inheritable, numbers))

    taken = Listener(places)

    assert not {HELD, passage.HELD} & set(os.environ)
    assert not any(map(os.get_inheritable, numbers))
    assert taken.open(LOOPBACK, 0) == numbers
    assert reachable(places) == port
    detach(taken)


def test_an_agent_of_before_the_passage_is_handed_the_socket_alone(places, listener, tmp_path):
    door, *ends = listener.open(LOOPBACK, 0)

    listener.hand_over(agent(tmp_path, "before the passage"))

    assert os.get_inheritable(door)
    for each in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)
    assert passage.HELD not in os.environ
    taken = Listener(places)
    assert taken.open(LOOPBACK, 0)[0] == door
    taken.passage.close()
    detach(taken)


def test_what_lies_in_the_passage_is_ended_with_it_or_where_nobody_takes_it(listener):
    with socket.create_server((LOOPBACK, 0)) as server:
        for end in (listener.passage.clear, listener.close):
            _, _, there = listener.open(LOOPBACK, 0)
            client = socket.create_connection(server.getsockname(), 5)
            line, _ = server.accept()
            with client, line, socket.socket(fileno=os.dup(there)) as leaving:
                socket.send_fds(leaving, [b"."], [line.fileno()])
                line.close()
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                leaving.close()

                end()

                assert client.recv(1) == b""


@pytest.mark.parametrize("at", ["its end", "another port", "an agent of before"])
def test_a_router_whose_keeper_lets_the_passage_go_sees_that_nobody_follows(listener, tmp_path, at):
    _, *ends = listener.open(LOOPBACK, 0)
    router = passages.Passage({PASSAGE: " ".join(str(os.dup(each)) for each in ends)})
    assert router
    with socket.socket() as line:
        assert router.leave(line.fileno())

        if at == "its end":
            listener.close()
        elif at == "another port":
            listener.open("0.0.0.0", 0)
        else:
            listener.hand_over(agent(tmp_path, "before the passage"))

        assert not router
        assert not router.leave(line.fileno())
    assert router.take() == []
    router.close()
    os.environ.pop(HELD, None)


def agent(folder, name):
    """An agent's archive, as it is now, or without the file of the passage."""
    file = folder / f"{name}.pyz"
    with zipfile.ZipFile(io.BytesIO(bundle().data)) as whole, zipfile.ZipFile(file, "w") as archive:
        for each in whole.namelist():
            if name == "now" or each != passage.OURS:
                archive.writestr(each, whole.read(each))
    return file


def detach(taken):
    """Two hold one descriptor here, which is closed once."""
    taken._socket.detach()
    for end in taken.passage._ends:
        end.detach()


def test_a_socket_is_left_to_an_agent_that_takes_it_up_and_to_none_of_before(tmp_path):
    now, before, torn = (tmp_path / name for name in ("now.pyz", "before.pyz", "torn.pyz"))
    now.write_bytes(bundle().data)
    with zipfile.ZipFile(before, "w") as archive:
        archive.writestr("slmops/device/supervise.py", "")
    torn.write_bytes(b"PK")

    assert [knows_sockets(each) for each in (now, before, torn, tmp_path / "none")] == [True, *[False] * 3]


@pytest.fixture
def router(places):
    """Answer one question at the admin socket with what the test puts there."""
    said = []
    place = socket.socket(socket.AF_UNIX)
    here = os.open(places.run, os.O_RDONLY)
    place.bind(f"/proc/self/fd/{here}/admin.sock")
    place.listen()

    def answer():
        line, _ = place.accept()
        with line:
            asked = line.recv(1 << 16)
            line.sendall(said.pop() if said else b"")
            said.append(asked)

    thread = threading.Thread(target=answer)

    def begin(reply):
        said.append(reply)
        thread.start()
        return said

    yield begin
    thread.join()
    place.close()
    os.close(here)


def heard(errand, until):
    """The answer to an errand, once it is there."""
    found = []
    until(lambda: (answer := errand.look()) is not None and (found.append(answer) or True))
    return found[0]


def test_an_errand_is_sent_and_looked_at_until_its_answer_is_whole(places, router, until):
    asked = router(b'HTTP/1.1 409 Conflict\r\nA: b\r\n\r\n{"error": {"message": "no room"}}')

    answer = heard(Errand(places, "load", {"digest": "sha256:a"}), until)

    assert (answer.status, answer.message) == (409, "no room")
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /admin/v1/load HTTP/1.0\r\n")
    assert json.loads(body) == {"digest": "sha256:a"}


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1", b"HTTP/1.1 200 OK\r\n\r\n[1]", b"\xff\xff\r\n\r\n{"])
def test_a_router_that_breaks_off_is_an_error_and_no_answer(places, router, until, reply):
    router(reply)

    with pytest.raises(OSError, match="the router"):
        heard(Errand(places, "status"), until)


def test_the_status_of_a_router_that_is_not_there_is_none(places):
    assert admin.status(places) is None


def test_where_keys_are_asked_for_the_agent_comes_by_the_admin_socket(places, router):
    places.keys.write_text("{}")
    router(b'HTTP/1.1 200 OK\r\n\r\n{"ready": true, "digest": "sha256:a"}')

    assert ready.ready(places)["digest"] == "sha256:a"


def test_a_daemon_at_another_address_of_this_machine_is_asked_by_the_admin_socket(places, router):
    with socket.create_server((LOOPBACK, 0)) as taken:
        places.port.write_text(str(taken.getsockname()[1]))
    router(b'HTTP/1.1 200 OK\r\n\r\n{"ready": true, "digest": "sha256:a"}')

    assert ready.ready(places)["digest"] == "sha256:a"


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("no such name", False)),
    ],
)
def test_what_only_this_machine_reaches_is_known(host, alone):
    assert is_loopback(host) == alone

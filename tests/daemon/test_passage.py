"""One router is replaced by the next, in real processes: who asks meanwhile does not know."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from slmops.daemon import listen
from slmops.daemon.passage import Passage
from slmops.wire import PASSAGE

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

BODY = json.dumps({"prompt": "x", "max_tokens": 5})
JSON = {"Content-Type": "application/json"}
PLACE = f"""if True:
    import os, sys
    os.dup2(int(sys.argv[1]), {listen.FIRST})
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Keeper:
    """Who starts the routers: it holds their socket, and the passage."""

    def __init__(self, artifact, folder):
        self._artifact, self._log = artifact, folder / "log"
        self._door = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lines = []
        self.router = self._start()

    def _start(self):
        handed = [each.fileno() for each in (self._door, *self._ends)]
        words = ["-m", "slmops.daemon", "--artifact", self._artifact, "--drain", "60"]
        said = {"LISTEN_FDS": "1", PASSAGE: f"{handed[1]} {handed[2]}", "OMP_NUM_THREADS": "1"}
        place = [sys.executable, "-c", PLACE, handed[0]]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                list(map(str, [*place, *words])), pass_fds=handed, stderr=log, env={**os.environ, **said}
            )

    def let_go(self):
        """Keep nothing any more for a router to come."""
        self._ends[1].shutdown(socket.SHUT_WR)

    def stop(self):
        self.router.send_signal(signal.SIGTERM)
        assert self.router.wait(90) == 0

    def replace(self):
        self.stop()
        self.router = self._start()

    def connect(self):
        self._lines.append(socket.create_connection(self._door.getsockname(), 60))
        return self._lines[-1]

    def line(self):
        """A connection that is kept, and never made anew: what is lost over it is lost."""
        line = http.client.HTTPConnection("localhost")
        line.auto_open, line.sock = 0, self.connect()
        return line

    def close(self):
        self.router.kill()
        self.router.wait()
        for each in (self._door, *self._ends, *self._lines):
            each.close()


@pytest.fixture(scope="module")
def artifact(tiny, tmp_path_factory):
    return tiny.make_artifact(tmp_path_factory.mktemp("passage") / "parrot", "gguf", tiny.parrot_weights())


@pytest.fixture
def keeper(artifact, tmp_path):
    made = Keeper(artifact, tmp_path)
    yield made
    made.close()


def ask(line):
    """Ask over a connection; return the status, or what went wrong."""
    try:
        line.request("POST", "/v1/completions", BODY, JSON)
        answer = line.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    return answer.status


def request(more=""):
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(BODY)}\r\n{more}\r\n"
    return (head + BODY).encode()


def heard(sock, end):
    found = b""
    while end not in found:
        more = sock.recv(65536)
        assert more, found
        found += more
    return found


@contextmanager
def asked_all_the_while(works):
    """Do each of these again and again, in a thread of its own; give what they told."""
    told, over = [], threading.Event()

    def again(work):
        while not over.is_set():
            told.append(work())

    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_connections_that_lie_idle_outlive_their_router(keeper):
    used, fresh = keeper.line(), keeper.connect()
    assert ask(used) == 200
    mine = used.sock.getsockname()

    for _ in range(2):
        keeper.replace()

        assert ask(used) == 200
    fresh.sendall(request("connection: close\r\n"))
    assert heard(fresh, b'"finish_reason"').startswith(b"HTTP/1.1 200 ")
    assert used.sock.getsockname() == mine


def test_what_is_asked_between_two_routers_is_answered_by_the_second(keeper):
    used, fresh = keeper.line(), keeper.connect()
    assert ask(used) == 200
    keeper.stop()

    for sock in (used.sock, fresh):
        sock.sendall(request())
    keeper.replace()

    for sock in (used.sock, fresh):
        assert heard(sock, b'"finish_reason"').startswith(b"HTTP/1.1 200 ")


def test_a_stream_ends_in_the_first_and_its_connection_goes_on_in_the_second(keeper):
    line = keeper.line()
    assert ask(line) == 200
    asked = {"prompt": "x", "max_tokens": 200, "stream": True}
    line.request("POST", "/v1/completions", json.dumps(asked), JSON)
    answer = line.getresponse()
    first = answer.readline()

    keeper.replace()

    assert b"[DONE]" in first + answer.read()
    assert ask(line) == 200


def test_a_request_that_comes_in_parts_is_answered_by_who_heard_its_beginning(keeper):
    line = keeper.line()
    assert ask(line) == 200
    whole = request()
    line.sock.sendall(whole[:30])
    # A whole round through the same process: it has heard what was sent before.
    assert ask(keeper.line()) == 200
    keeper.router.send_signal(signal.SIGTERM)

    line.sock.sendall(whole[30:])

    assert heard(line.sock, b'"finish_reason"').startswith(b"HTTP/1.1 200 ")
    keeper.replace()
    assert ask(line) == 200


def test_a_router_that_is_told_that_nobody_follows_says_so_and_keeps_nobody_waiting(keeper):
    used, line = keeper.line(), keeper.line()
    assert [ask(used), ask(line)] == [200, 200]
    whole = request()
    line.sock.sendall(whole[:30])
    # A whole round through the same process: it has heard what was sent before.
    assert ask(keeper.line()) == 200
    keeper.let_go()
    keeper.router.send_signal(signal.SIGTERM)
    assert used.sock.recv(1) == b""

    line.sock.sendall(whole[30:])

    assert b"connection: close" in heard(line.sock, b"\r\n\r\n")
    keeper.stop()


def test_many_replacements_cost_no_request_of_whoever_asks_however(keeper):
    lines = [keeper.line() for _ in range(4)]
    assert [ask(line) for line in lines] == [200] * 4
    late = threading.Event()

    def fresh():
        line = keeper.line()
        try:
            return ask(line)
        finally:
            line.close()

    def slow():
        """Connect, and ask some time later."""
        with keeper.connect() as sock:
            late.wait(0.02)
            sock.sendall(request("connection: close\r\n"))
            return int(heard(sock, b'"finish_reason"')[9:12])

    def pause(line):
        late.wait(0.03)
        return ask(line)

    works = [fresh, slow, *(lambda line=line: ask(line) for line in lines[:2])]
    works += [lambda line=line: pause(line) for line in lines[2:]]
    with asked_all_the_while(works) as told:
        for _ in range(3):
            keeper.replace()
            assert ask(keeper.line()) == 200

    assert set(told) == {200}


def test_the_passage_takes_what_fits_and_says_what_does_not():
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = {PASSAGE: f"{here.detach()} {there.detach()}"}
    passage = Passage(environ)
    assert environ == {}
    assert passage
    with socket.socket() as line:
        count = 0
        while passage.leave(line.fileno()):
            count += 1
        assert not passage.leave(line.fileno())
    taken = passage.take()

    assert len(taken) == count > 100
    assert not any(each.get_inheritable() for each in taken)
    assert passage.take() == []
    for each in taken:
        each.close()
    passage.close()
    assert not Passage({})
    assert not Passage({}).leave(0)
    assert Passage({}).take() == []

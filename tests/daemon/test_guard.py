"""Connections with real sockets: slow ones, stuck ones, and too many."""

import json
import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvicorn

from slmops.daemon import guard, listen
from slmops.daemon.passage import Passage
from slmops.wire import PASSAGE

EVENT = b"x" * 65536


async def echo(scope, receive, send):
    """Say what was asked and how it came.

    On /flood and /lump that is more than any buffer holds; on /early it is said at once.
    """
    length = 0
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] != "http.request":
            return
        length += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/flood":
        for _ in range(200):
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    said = json.dumps({"length": length, "via": scope["state"]["via"]}).encode()
    said += 200 * EVENT if scope["path"] == "/lump" else b""
    await send({"type": "http.response.body", "body": said})


class Serving:
    """A server in a thread of its own."""

    def __init__(self, folder, graceful=1, passage=None, **limits):
        self.turned = guard.Turned()
        self.listeners = listen.gather(
            "127.0.0.1", 0, unix=folder / "api.sock", admin=folder / "run" / "admin.sock", environ={}
        )
        config = guard.config(
            echo,
            listen.admin_names(self.listeners),
            limits=guard.Limits(**limits),
            turned=self.turned,
            graceful=graceful,
            passage=passage or Passage({}),
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([each.sock for each in self.listeners],))

    def __enter__(self):
        self.thread.start()
        return self

    def connect(self, number=0):
        sock = self.listeners[number].sock
        client = socket.socket(sock.family, socket.SOCK_STREAM)
        client.settimeout(20)
        client.connect(sock.getsockname())
        return client

    @property
    def listening(self):
        return any(each.is_serving() for each in self.server.servers)

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        for each in self.listeners:
            each.close()


@pytest.fixture
def serve(tmp_path):
    with ExitStack() as stack:

        def start(**said):
            return stack.enter_context(Serving(tmp_path, **said))

        yield start


def request(path="/", body=b"", more=""):
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def answer(client):
    """Return what comes until the line is closed."""
    found = b""
    while data := client.recv(65536):
        found += data
    return found


def whole(client):
    """Ask, and return the answer, whose end does not end the line."""
    client.sendall(request())
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        found += client.recv(1000)
    return found


def closing(client, sent):
    client.sendall(sent)
    return answer(client)


CLOSE = "connection: close\r\n"


@pytest.mark.parametrize(("number", "via"), [(0, "tcp"), (1, "unix"), (2, "admin")])
def test_a_request_knows_by_which_door_it_came(serve, number, via):
    with serve().connect(number) as client:
        said = closing(client, request(body=b"12345", more=CLOSE))

    assert json.loads(said[said.index(b"{") : said.rindex(b"}") + 1]) == {"length": 5, "via": via}


@pytest.mark.parametrize(
    "part",
    [b"", b"POST / HT", request()[:-4], request(body=b"12345")[:-2]],
    ids=["none", "line", "head", "body"],
)
def test_a_request_that_is_not_whole_in_time_is_answered_408(serve, part, caplog):
    serving = serve(request=0.1)

    with serving.connect() as client:
        said = closing(client, part)

    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"not whole within 0.1 seconds" in said
    assert serving.turned == guard.Turned(late=1)
    assert caplog.text == ""


def test_one_byte_now_and_then_buys_no_time(serve):
    serving = serve(request=0.2)

    with serving.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\n")
        client.settimeout(0.02)
        said = b""
        while not said:
            try:
                said = client.recv(100)
            except TimeoutError:
                client.sendall(b"a")

    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_second_request_on_the_same_line_has_a_deadline_of_its_own(serve):
    serving = serve(request=0.2)

    with serving.connect() as client:
        first = whole(client)
        said = closing(client, b"POST / HTTP/1.1\r\nhost: l")

    assert first.startswith(b"HTTP/1.1 200 ")
    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_beginning_that_came_with_a_whole_request_has_a_deadline_too(serve):
    serving = serve(request=0.2)

    with serving.connect() as client:
        said = closing(client, request() + b"G")

    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


def test_a_second_request_that_came_with_the_first_and_is_not_whole_has_a_deadline_too(serve):
    serving = serve(request=0.2)

    with serving.connect() as client:
        said = closing(client, request() + request(body=b"12345")[:-2])

    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


def test_a_request_that_was_whole_has_all_the_time_it_takes(serve):
    serving = serve(request=0.1)

    with serving.connect() as client:
        assert len(closing(client, request("/flood", more=CLOSE))) > 200 * len(EVENT)

    assert serving.turned == guard.Turned()


@pytest.mark.parametrize("number", [0, 1])
def test_a_reader_who_takes_nothing_is_cut_off(serve, number):
    serving = serve(reader=0.2)

    with serving.connect(number) as client:
        client.sendall(request("/flood"))
        while serving.turned.stuck == 0:
            threading.Event().wait(0.02)
        assert len(answer(client)) < 200 * len(EVENT)

    assert serving.turned == guard.Turned(stuck=1)


def test_an_idle_line_is_closed(serve):
    with serve(idle=0.1).connect() as client:
        said = closing(client, request())

    assert said.endswith(b"0\r\n\r\n")


def test_one_connection_too_many_is_told_so_and_the_admin_comes_in(serve):
    serving = serve(connections=2)

    with serving.connect() as first, serving.connect() as second:
        for each in (first, second):
            each.sendall(request())
            assert each.recv(1000).startswith(b"HTTP/1.1 200 ")
        with serving.connect() as third, serving.connect(2) as admin:
            said = closing(third, request(body=b"x" * 100_000))
            assert closing(admin, request(more=CLOSE)).startswith(b"HTTP/1.1 200 ")
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in said

    assert serving.turned == guard.Turned(busy=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_does_not_come_through_the_admin_socket():
    with TemporaryDirectory() as folder, ExitStack() as stack:
        serving = Serving(Path(folder))
        for place in (folder, f"{folder}/run"):
            Path(place).chmod(0o755)
        Path(folder, "run/admin.sock").chmod(0o666)
        os.seteuid(65534)
        try:
            client = stack.enter_context(serving.connect(2))
        finally:
            os.seteuid(0)
        stack.enter_context(serving)

        assert client.recv(100) == b""
        assert serving.turned == guard.Turned(strangers=1)


CHUNKED = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        CHUNKED + b"5\r\n12345\r\nx\r\n",
    ],
    ids=["garbage", "no host", "two lengths", "no chunk"],
)
def test_what_is_no_request_is_answered_400_in_openais_shape(serve, sent):
    with serve().connect() as client:
        head, _, body = closing(client, sent).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_request_that_was_answered_before_it_was_whole_is_not_answered_twice(serve):
    serving = serve(request=0.2)

    with serving.connect() as slow, serving.connect() as wrong:
        assert closing(slow, request("/early", body=b"12345")[:-2]).count(b"HTTP/1.1") == 1
        assert closing(wrong, CHUNKED.replace(b"/", b"/early", 1) + b"x\r\n").count(b"HTTP/1.1") == 1


def test_a_head_without_an_end_is_refused(serve):
    with serve().connect() as client:
        said = closing(client, b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 70_000)

    assert said.startswith(b"HTTP/1.1 400 ")


def test_a_server_that_ends_and_that_nobody_follows_hears_who_is_about_to_ask_and_says_it_is_the_last(
    serve,
):
    serving = serve(graceful=60, rest=60.0, last_call=60.0)
    with serving.connect() as used, serving.connect() as fresh, serving.connect() as slow:
        assert whole(used).startswith(b"HTTP/1.1 200 ")
        slow.sendall(request(body=b"12345")[:-2])
        serving.server.should_exit = True
        while serving.listening:
            threading.Event().wait(0.02)

        slow.sendall(b"45")
        said = [answer(slow), *(closing(each, request()) for each in (used, fresh))]

    assert [each[:13] for each in said] == [b"HTTP/1.1 200 "] * 3
    assert all(b"connection: close" in each for each in said)
    assert serving.turned == guard.Turned()


def test_a_server_that_ends_closes_connections_over_which_nobody_asks(serve):
    serving = serve(last_call=0.01)
    with serving.connect() as used, serving.connect() as fresh:
        assert whole(used).startswith(b"HTTP/1.1 200 ")
        serving.server.should_exit = True

        assert [answer(used), answer(fresh)] == [b"", b""]


def test_a_head_that_comes_in_pieces_may_be_as_long_as_any(serve):
    with serve().connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"b" * 40_000)
        threading.Event().wait(0.1)
        said = closing(client, b"b" * 20_000 + b"\r\n" + CLOSE.encode() + b"\r\n")

    assert said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "part", [b"G", request()[:-4], request(body=b"12345")[:-2]], ids=["byte", "head", "body"]
)
def test_a_server_that_ends_waits_for_the_rest_of_a_request_and_not_as_long_as_for_an_answer(serve, part):
    serving = serve(graceful=600, rest=0.1)
    with serving.connect() as used, serving.connect() as fresh:
        whole(used)
        for each in (used, fresh):
            each.sendall(part)
        # A whole round through the same server: it has heard what was sent before.
        with serving.connect() as other:
            closing(other, request(more=CLOSE))
        serving.server.should_exit = True

        said = [answer(used), answer(fresh)]

    assert [each[:13] for each in said] == [b"HTTP/1.1 408 "] * 2
    assert all(b"not whole within 0.1 seconds" in each for each in said)
    assert serving.turned == guard.Turned(late=2)


@pytest.mark.parametrize("path", ["/flood", "/lump"])
def test_a_server_that_ends_leaves_a_connection_once_its_reader_took_all_of_a_long_answer(
    serve, caplog, path
):
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passage = Passage({PASSAGE: f"{here.detach()} {there.detach()}"})
    serving = serve(graceful=60, passage=passage)
    with serving.connect() as client:
        client.sendall(request(path))
        said = client.recv(1000)
        serving.server.should_exit = True
        while serving.listening:
            threading.Event().wait(0.02)

        while not said.endswith(b"0\r\n\r\n"):
            said += client.recv(65536)
        serving.thread.join()

        (left,) = passage.take()
        passage.close()
        with left:
            assert left.getpeername() == client.getsockname()
    assert len(said) > 200 * len(EVENT)
    assert caplog.text == ""

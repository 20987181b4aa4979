"""What systemd is told."""

import asyncio
import os
import socket

import pytest

from slmops.daemon.notify import Notifier


@pytest.fixture(params=["a path", "an abstract name"])
def systemd(request, tmp_path):
    """A socket as systemd has one, and the environment it gives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        place = str(tmp_path / "notify") if request.param == "a path" else f"@slmops-{os.getpid()}"
        sock.bind(place.replace("@", "\0"))
        sock.setblocking(False)
        yield sock, {"NOTIFY_SOCKET": place}


def heard(sock):
    words = []
    while True:
        try:
            words.append(sock.recv(4096).decode().splitlines())
        except BlockingIOError:
            return words


def test_ready_and_stopping_are_told(systemd):
    sock, environ = systemd
    notifier = Notifier(environ)

    notifier.ready("serving a:1.0.0\nREADY=0")
    notifier.stopping()

    assert heard(sock) == [
        ["READY=1", "STATUS=serving a:1.0.0 READY=0"],
        ["STOPPING=1", "STATUS=finishing what was begun"],
    ]
    assert environ == {}


def test_the_watchdog_hears_only_while_all_is_well(systemd):
    sock, environ = systemd
    notifier = Notifier({**environ, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())})
    asked = []

    async def watch():
        over = asyncio.Event()

        def well():
            asked.append(len(heard(sock)))
            if len(asked) == 4:
                over.set()
            return len(asked) < 3

        task = asyncio.ensure_future(notifier.watch(well))
        await over.wait()
        task.cancel()

    asyncio.run(watch())

    assert notifier.watchdog == 0.002
    assert asked[:4] == [0, 1, 1, 0]


def test_while_it_loads_more_time_is_asked_for(systemd):
    sock, environ = systemd
    notifier = Notifier(environ)

    async def load():
        task = asyncio.ensure_future(notifier.loading("loading a:1.0.0"))
        await asyncio.sleep(0)
        task.cancel()
        return heard(sock)

    assert asyncio.run(load()) == [["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1", "STATUS=loading a:1.0.0"]]


def test_without_systemd_nothing_is_told_and_nothing_watched():
    notifier = Notifier({"WATCHDOG_USEC": "1000"})

    notifier.ready("fine")
    asyncio.run(notifier.watch(lambda: pytest.fail("nobody asked")))


def test_another_process_is_not_watched_here(systemd):
    _, environ = systemd

    assert Notifier({**environ, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog is None


def test_a_systemd_that_is_gone_stops_nothing(tmp_path, caplog):
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("fine")

    assert "READY=1" in caplog.text

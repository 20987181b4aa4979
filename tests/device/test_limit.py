"""Nothing that goes on moves the end of a wait."""

import os
import socket
import subprocess
import threading
from contextlib import suppress

import pytest

from slmops import wire
from slmops.device import limit, line, ready, talk
from slmops.errors import DeviceError
from slmops.wire import Request

HASTY = """
import sys
sys.path.insert(0, sys.argv[1])
from slmops.device import line, main
line.SILENCE, line.SLOWEST = 0.5, 1e9
sys.exit(main.main(sys.argv[2:]))
"""
"""The same agent with less patience: a minute is too long for a test."""


@pytest.fixture
def trickling(places):
    """A daemon that says a letter now and then, for ever: a header that never ends."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        places.port.write_text(str(server.getsockname()[1]))

        def trickle():
            while not over.is_set():
                try:
                    said, _ = server.accept()
                except OSError:
                    return
                with said:
                    said.sendall(b"HTTP/1.1 200 OK\r\n")
                    with suppress(OSError):
                        while not over.wait(0.02):
                            said.sendall(b"X")

        thread = threading.Thread(target=trickle)
        thread.start()
        yield places
        over.set()
        # Closing a socket wakes nobody who accepts on it: somebody must come.
        socket.create_connection(server.getsockname()).close()
        thread.join()


def test_a_daemon_that_trickles_is_given_up_when_its_time_is_over(trickling):
    asked = {"prompt": "?", "max_tokens": 1}

    with pytest.raises(DeviceError, match=r"its time is over|timed out"):
        talk.timed(trickling, "/v1/completions", asked, 0.2)
    with pytest.raises(DeviceError, match=r"its time is over|timed out"):
        talk.scores(trickling, asked, 0.2)
    assert ready.ready(trickling, 0.2) is None


def test_a_program_that_does_not_end_is_given_up_by_name():
    with pytest.raises(DeviceError, match=r"sleep did not end within 0 s: sleep 60"):
        limit.run(["sleep", "60"], 0.1)
    assert limit.run(["echo", "here"]).stdout == "here\n"


def test_a_sender_that_trickles_is_given_up_as_one_that_is_silent(device, shop):
    parcel = shop.release()
    device.get("prepare", **parcel.said())
    said = {"slot": parcel.slot, "name": "README.md", "offset": 0, "length": len(parcel.files["README.md"])}
    words = [device.python, "-I", "-S", "-c", HASTY, str(device.agent), str(device.places.root), "receive"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        agent.stdin.write(wire.render_request(Request("receive", said)))
        agent.stdin.flush()
        over = threading.Event()

        def trickle():
            while not over.wait(0.05):
                try:
                    os.write(agent.stdin.fileno(), b"#")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        reply = wire.parse_reply(agent.stdout.readline().decode())
        over.set()
        thread.join()
    assert "the operator has fallen silent" in reply.said["message"]
    assert line.SILENCE == 60.0

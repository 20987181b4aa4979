import signal
import sys

import pytest

from slmops.device import child as children
from slmops.device.places import Places

DAEMON = """
import pathlib, signal, sys

def end(*_):
    pathlib.Path("ended").write_text("by SIGTERM")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
signal.pause()
"""


@pytest.fixture
def places(tmp_path):
    places = Places(tmp_path / "root")
    places.make()
    return places


@pytest.fixture
def blocked():
    """The signals that a supervisor waits for are blocked in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("blocked")
def test_a_daemon_hears_sigterm_though_its_supervisor_does_not(places, tmp_path, until):
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    child = children.start(places, {"runtime": [sys.executable, str(script)], "port": 0}, "a" * 64, 0.0, None)
    until((places.root / "ready").exists)

    children.stop(child)

    assert (places.root / "ended").read_text() == "by SIGTERM"

import signal
import sys
from pathlib import Path

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
    child = children.start(places, {"runtime": [sys.executable, str(script)], "port": 0}, "a" * 64, 0.0)
    until((places.root / "ready").exists)

    children.stop(child)

    assert (places.root / "ended").read_text() == "by SIGTERM"


STRAY = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "stray"])
pathlib.Path("ready").touch()
"""


def running(group):
    """The processes of a group that are no zombies."""
    stats = [each.read_text().rpartition(")")[2].split() for each in Path("/proc").glob("[0-9]*/stat")]
    return [fields for fields in stats if fields[2] == str(group) and fields[0] != "Z"]


def test_what_a_daemon_that_ended_by_itself_leaves_behind_goes_too(places, tmp_path, until):
    script = tmp_path / "daemon.py"
    script.write_text(STRAY)
    child = children.start(places, {"runtime": [sys.executable, str(script)], "port": 0}, "a" * 64, 0.0)

    until(lambda: children.reap(child) is not None)

    until(lambda: not running(child.pid))


def test_a_log_that_grew_long_is_emptied_while_it_is_written(places):
    with places.log.open("ab", buffering=0) as log:
        log.write(b"old\n" * (children.LOG_LIMIT // 4 + 1))
        children.bound_log(places)
        log.write(b"new\n")

    assert children.log_tail(places) == ["new"]
    assert places.log.with_suffix(".old.log").read_bytes().startswith(b"old\n")
    children.bound_log(places)
    assert places.log.stat().st_size == len(b"new\n")


def test_a_daemon_starts_though_the_disk_takes_no_line_of_its_log(places, tmp_path, until):
    places.log.symlink_to("/dev/full")
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)

    child = children.start(places, {"runtime": [sys.executable, str(script)], "port": 0}, "a" * 64, 0.0)

    until((places.root / "ready").exists)
    children.stop(child)

"""Threads spin while the processors are theirs, and sleep while others want them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon import spin

seconds = st.floats(0, 1000)


@given(seconds, seconds, st.booleans())
def test_who_waits_sleeps_who_does_not_spins_and_between_it_stays_as_it_is(waited, ran, slept):
    sleeps = spin.sleeps(waited, ran, slept=slept)

    if ran and waited / ran > spin.BUSY:
        assert sleeps
    elif not ran or waited / ran < spin.QUIET:
        assert not sleeps
    else:
        assert sleeps == slept


def test_what_somebody_has_said_of_waiting_stays():
    passive = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}
    for said in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, passive):
        environ = dict(said)
        spin.prepare(environ)
        assert environ == said
    environ = {"OMP_WAIT_POLICY": "PASSIVE"}
    spin.prepare(environ)
    assert environ == {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": spin.SPINS}


CROWDED = """
import ctypes, os, threading, time
gomp = ctypes.CDLL("libgomp.so.1")
from slmops.daemon import spin
before = threading.active_count()
spinning = spin.Spinning()
spinning.sleep()
spinning.sleep()
tasks = len(os.listdir("/proc/self/task"))
assert spinning.sleeping and tasks >= 2 + len(os.sched_getaffinity(0)), tasks
spinning.spin()
while len(os.listdir("/proc/self/task")) > 1:
    time.sleep(0.01)
assert not spinning.sleeping
"""


PINNED = """
import ctypes, os, threading
gomp = ctypes.CDLL("libgomp.so.1")
from slmops.daemon import spin
spinning = spin.Spinning()
everywhere = os.sched_getaffinity(0)
end = threading.Event()
others = [threading.Thread(target=end.wait, daemon=True) for _ in list(everywhere)[1:]]
for other in others:
    other.start()
ids = (threading.get_native_id(), *(other.native_id for other in others))
spinning._keep_apart(ids)
assert sorted(cpu for each in ids for cpu in os.sched_getaffinity(each)) == sorted(everywhere)
spinning.sleep()
assert all(os.sched_getaffinity(each) == everywhere for each in ids)
spinning.spin()
spinning._keep_apart((1, 2, 3) * len(everywhere))
assert os.sched_getaffinity(0) == everywhere
"""


@given(st.dictionaries(st.integers(1, 99), seconds, max_size=8))
def test_those_compute_together_who_ran_about_as_long_as_any(ran):
    found = spin.computing(ran)
    assert set(found) == {thread for thread, longest in ran.items() if longest > max(ran.values()) / 2}
    assert not ran or not max(ran.values()) or found


@pytest.mark.parametrize("code", [pytest.param("CROWDED", id="crowd"), pytest.param("PINNED", id="apart")])
def test_the_crowd_comes_and_goes_and_threads_keep_apart_without_it(code):
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("no libgomp is installed")
    done = subprocess.run(
        [sys.executable, "-c", globals()[code]],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_where_nothing_computes_with_openmp_nothing_happens():
    before = threading.active_count()
    spinning = spin.Spinning()
    spinning._gomp = None
    for at in range(100):
        spinning.look(float(at))

    assert (spinning.sleeping, threading.active_count()) == (False, before)

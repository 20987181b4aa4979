"""An application that must not be disturbed."""

import json
import os
import subprocess
import sys
import time

import pytest

from slmops.device import heed
from slmops.errors import DeferredError

TIMES = {"ready_seconds": 30.0, "gate_seconds": 30.0, "confirm_seconds": 60.0}


def lock(places, **said):
    places.update_lock.write_text(json.dumps(said))


def test_an_application_puts_the_switch_off_and_not_the_transfer(device, shop):
    parcel = shop.release()
    lock(device.places, why="a customer is paying")
    device.take(parcel)

    answer = device.ask("activate", slot=parcel.slot, **TIMES)

    assert (answer.kind, answer.said["code"]) == ("failed", "SLM-DEFERRED")
    assert str(device.places.update_lock) in answer.said["message"]
    assert "a customer is paying" in answer.said["message"]
    assert device.status()["lease"]["update_lock"]["why"] == "a customer is paying"
    assert device.status()["standing"]["slot"] is None


def test_an_operator_may_override_an_application(device, shop):
    device.places.update_lock.touch()
    slot = device.take(shop.release())

    assert device.get("activate", slot=slot, **TIMES, override_lock=True)["outcome"] == "pass"


def test_what_serves_goes_back_though_an_application_holds_its_lock(device, shop, until):
    good, late = shop.release(), shop.release("1.1.0")
    device.commit(good)
    device.activate(late, confirm_seconds=5.0)
    device.places.update_lock.touch()

    device.get("roll-back", slot=late.slot, code="OPERATOR", message="back", **TIMES)

    until(lambda: device.serves() == good.slot)


def test_retiring_leaves_an_applications_lock_to_it(device):
    device.places.update_lock.touch()

    device.get("retire")

    assert [path.name for path in device.places.root.iterdir()] == ["update-lock"]


@pytest.fixture
def gone():
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_a_stale_lock_is_not_there(places, gone):
    lock(places, until=time.time() - 1)
    assert heed.update_lock(places) is None
    lock(places, pid=gone)
    assert heed.update_lock(places) is None


def test_a_lock_that_is_not_stale_is_there(places):
    for said in ({"until": time.time() + 60}, {"pid": os.getpid()}, {"pid": 1}, {"pid": -1}, {"until": "x"}):
        lock(places, **said)
        assert heed.update_lock(places) is not None, said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 10000, b'{"why": "a\\nb\\u001b[31m"}'])
def test_whatever_is_in_the_file_it_locks_and_what_it_says_can_be_shown(places, content):
    places.update_lock.write_bytes(content)

    assert heed.update_lock(places)["why"].isprintable()


def test_a_folder_of_that_name_locks_too(places):
    places.update_lock.mkdir()

    assert "cannot be read" in heed.update_lock(places)["why"]


@pytest.mark.parametrize("until", ["NaN", "Infinity", "-Infinity", "1e300", "9" * 400])
def test_a_lock_until_no_time_that_there_is_has_no_end_and_can_be_told(places, until):
    places.update_lock.write_text('{"until": ' + until + "}")

    assert heed.update_lock(places)["until"] is None
    with pytest.raises(DeferredError):
        heed.require_leave(places, {})


def test_a_pipe_of_that_name_locks_too_and_is_not_waited_for(places):
    os.mkfifo(places.update_lock)

    assert heed.update_lock(places) is not None

"""What a device keeps at hand for who looks: read by a shell, from a real supervisor's memory."""

import os
import signal
import subprocess
import sys

import pytest

from slmops import __version__
from slmops.device.places import read_json
from slmops.fleet import commands
from slmops.telemetry import bulletin

CLOCKWORK = {"daemon", "memory"}
"""What of a status may move between one look and the next."""


def shown(device):
    """What a shell at the device gets to see: its exit code and its lines."""
    words = ["sh", "-c", commands.glance(str(device.places.root))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout.split("\n")[:-1]


def glance(device):
    """What the device says unasked; None when it says nothing that can be believed."""
    return bulletin.parse(shown(device)[1], __version__)


def well(device):
    """What it says unasked, if that is that it is well."""
    said = glance(device)
    return said if said and said["healthy"] else None


def test_a_device_says_unasked_what_its_agent_would_answer(device, shop, until):
    device.commit(shop.release())

    said = until(lambda: well(device))

    asked = device.status()
    assert said.keys() == asked.keys()
    assert {k: v for k, v in said.items() if k not in CLOCKWORK} == {
        k: v for k, v in asked.items() if k not in CLOCKWORK
    }


def test_a_device_whose_supervisor_was_killed_says_nothing(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))

    os.kill(device.supervisor(), signal.SIGKILL)
    until(lambda: device.supervisor() is None)

    assert device.places.bulletin.is_symlink()
    assert shown(device)[0] != 0
    assert glance(device) is None


def test_a_supervisor_that_comes_back_says_it_again(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))
    os.kill(device.supervisor(), signal.SIGKILL)
    until(lambda: device.supervisor() is None)

    starting = device.supervise()

    assert until(lambda: well(device))["standing"]["slot"] == shop.release().slot
    os.kill(device.supervisor(), signal.SIGTERM)
    starting.wait()
    assert glance(device) is None


def test_a_daemon_that_does_not_answer_any_more_is_not_called_well(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))

    os.kill(device.daemon(), signal.SIGSTOP)
    # Any change here makes the supervisor look at once.
    (device.places.root / "note").touch()

    until(lambda: well(device) is None)
    until(lambda: glance(device))
    os.kill(device.daemon(), signal.SIGCONT)
    (device.places.root / "note").unlink()
    until(lambda: well(device))


def test_the_end_of_the_daemon_is_told_at_once(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))
    before = device.daemon()

    os.kill(before, signal.SIGKILL)

    until(lambda: well(device) is None)
    assert until(lambda: well(device))["daemon"]["child"]["pid"] == device.daemon() != before


def test_a_line_that_is_torn_is_not_believed_and_comes_back_whole(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))

    os.kill(device.supervisor(), signal.SIGSTOP)
    os.truncate(device.places.bulletin, 200)
    assert len(shown(device)[1]) >= 3
    assert glance(device) is None

    os.kill(device.supervisor(), signal.SIGCONT)
    (device.places.root / "note").touch()
    until(lambda: well(device))


def test_what_was_so_before_a_verb_is_told_by_nobody_after_it(device, shop, until):
    first, second = shop.release(), shop.release(version="2.0.0")
    device.commit(first)
    until(lambda: well(device))

    device.activate(second)
    told = glance(device)
    assert told is None or told["standing"]["trial"] is not None

    device.get("confirm", slot=second.slot)
    told = glance(device)
    assert told is None or told["standing"]["slot"] == second.slot
    assert told is None or told["standing"]["trial"] is None

    back = {"code": "OPERATOR", "message": "taken back", "ready_seconds": 30.0, "gate_seconds": 30.0}
    device.get("roll-back", slot=second.slot, **back)
    told = glance(device)
    assert told is None or told["standing"]["slot"] == first.slot


def test_damage_that_was_found_is_told(device, shop, until):
    parcel = shop.release()
    device.commit(parcel)
    until(lambda: well(device))
    (device.places.files(parcel.slot) / "README.md").write_bytes(b"rotten")

    device.get("fsck")

    assert until(lambda: well(device))["release"]["damage"]
    assert parcel.slot not in well(device)["slots"]


def test_a_newer_agent_says_it_in_place_of_the_one_before(device, shop, until):
    device.commit(shop.release())
    until(lambda: well(device))
    before = device.places.bulletin.readlink()
    agent = device.newer_agent()

    device.ask("hello", agent=agent)

    until(lambda: device.supervised_by() == f"agent/{agent.name}")
    assert until(lambda: well(device))["standing"]["slot"] == shop.release().slot
    assert (read_json(device.places.supervisor) or {})["pid"] == int(before.parts[2])


def test_what_came_to_stand_in_its_place_is_not_opened(device):
    os.mkfifo(device.places.bulletin)
    assert shown(device) == (1, [])
    device.places.bulletin.unlink()
    device.places.bulletin.symlink_to("/proc/1/status" if os.geteuid() else "/dev/zero")
    assert shown(device) == (1, [])


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE"])
def test_where_memory_takes_no_line_nothing_is_told_and_nothing_ends(places, limit):
    code = """
import resource, sys
from pathlib import Path
from slmops.device.places import Places
from slmops.device.tell import Teller
limit = getattr(resource, sys.argv[2])
resource.setrlimit(limit, (3 if sys.argv[2] == "RLIMIT_NOFILE" else 0, resource.getrlimit(limit)[1]))
teller = Teller(Places(Path(sys.argv[1])))
teller.look()
teller.hush()
print("lives")
"""
    words = [sys.executable, "-c", code, str(places.root), limit]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)

    assert done.stdout == "lives\n", done.stderr

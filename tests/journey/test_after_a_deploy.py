"""What becomes of a device after a deploy: watched over again, little kept of it, set up anew."""

import json
import os
import signal
import time
from contextlib import closing

import pytest

from slmops.fleet.load import load_fleet
from slmops.rollout.history import History

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]
RELEASE = ("--release", "home-commands:1.0.0", "--yes")
BYTES = 2000
"""Of evidence that history keeps of a device with which all went well."""


@pytest.fixture
def fleet(operator, tmp_path):
    """A device with home-commands 1.0.0."""
    file = operator.fleet(1, tmp_path / "fleet", "local")
    operator("deploy", file, *RELEASE)
    return file


def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def pid(fleet, name):
    said = json.loads((fleet.parent / "edge-1/home/.slmops/run" / name).read_text())
    return (said["child"] or {}).get("pid") if name == "daemon.json" else said["pid"]


def lives(number):
    try:
        os.kill(number, 0)
    except (ProcessLookupError, TypeError):
        return False
    return True


def kill(number):
    os.kill(number, signal.SIGKILL)
    wait_until(lambda: not lives(number))


def health(operator, fleet):
    (row,) = operator.json("status", fleet)["devices"]
    return row["health"]


def test_the_same_deploy_brings_a_supervisor_back_and_the_daemon_is_started_again_when_it_ends(
    operator, fleet
):
    supervisor, daemon = pid(fleet, "supervisor.json"), pid(fleet, "daemon.json")
    kill(supervisor)
    assert lives(daemon)

    operator("deploy", fleet, *RELEASE)

    watching, serving = pid(fleet, "supervisor.json"), pid(fleet, "daemon.json")
    assert watching != supervisor
    assert lives(watching)
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
    kill(serving)
    wait_until(lambda: health(operator, fleet) == "healthy")
    assert pid(fleet, "daemon.json") not in (daemon, serving)
    assert "already" in operator("deploy", fleet, *RELEASE)


@pytest.mark.usefixtures("fleet")
def test_what_history_keeps_of_a_device_with_which_all_went_well_is_little(operator):
    with closing(History(operator.home / "rollouts.sqlite")) as history:
        (line,) = history.devices(1)

    assert line.state == "committed"
    assert line.evidence["attested"]["by"].startswith("SHA256:")
    assert line.evidence["measured"]["judged"]
    assert len(json.dumps(line.evidence)) < BYTES, json.dumps(line.evidence)


def test_a_device_that_was_uninstalled_is_set_up_anew_and_attests_with_another_key(operator, fleet):
    name = load_fleet(fleet)[0].name
    with closing(History(operator.home / "rollouts.sqlite")) as history:
        (before,) = history.device_keys(name).values()
        operator("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
        assert history.device_keys(name) == {}

        operator("deploy", fleet, *RELEASE)

        (after,) = history.device_keys(name).values()
    assert after != before

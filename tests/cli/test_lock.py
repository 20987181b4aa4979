"""Who has a fleet, and devices that do not answer."""

import json
from contextlib import closing

import pytest

from slmops.cli import lock
from slmops.rollout.history import History

FLEET = """\
name: lab
devices:
  - {name: edge-1, host: 127.0.0.1, port: 1, connect_timeout: 1, profile: local}
"""


@pytest.fixture
def fleet(tmp_path):
    """A fleet whose one device is away."""
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return file


@pytest.fixture
def driven(home):
    """This process drives a rollout over the fleet."""
    with closing(History(home / "rollouts.sqlite")) as history:
        number = history.begin("lab", "parrot:1.0.0", "sha256:" + "a" * 64, [[], ["edge-1"]])
        history.hold("lab", number, 5, "ann@desk")
        yield history


def test_a_device_that_is_away_is_told_and_so_is_who_drives_the_fleet(slmops, fleet, driven):
    ended = slmops("lock", "status", fleet, "-o", "json")

    said = json.loads(ended.out)
    assert ended.code == 6
    assert (said["driver"]["holder"], said["driver"]["epoch"]) == ("ann@desk", 5)
    assert said["devices"][0]["code"] == "SLM-UNREACHABLE"
    assert "lab: rollout 1 is driven by ann@desk" in slmops("lock", "status", fleet).out
    assert driven.driver_of("lab") is not None


def test_without_a_selector_who_drives_the_fleet_loses_it(slmops, fleet, driven):
    assert slmops("lock", "break", fleet, "-l", "edge-1", "--reason", "why not", "--yes").code == 6
    assert driven.driver_of("lab") is not None

    assert slmops("lock", "break", fleet, "--reason", "ann is on holiday", "--yes").code == 6

    assert driven.driver_of("lab") is None


def test_a_lock_that_nobody_holds_is_said_to_be_none_in_json_too(slmops, fleet):
    ended = slmops("lock", "break", fleet, "--reason", "why not", "-o", "json")

    (silent,) = json.loads(ended.out)["devices"]
    assert (silent["device"], silent["code"]) == ("edge-1", "SLM-UNREACHABLE")
    assert "Nobody holds any of the devices that answered." in ended.err


def test_a_rollout_is_called_by_its_number_where_that_is_known(home):
    with closing(History(home / "rollouts.sqlite")) as history:
        number = history.begin("lab", "parrot:1.0.0", "sha256:00", [[], ["edge-1"]], uid="ab" * 16)
    lease = {"holder": "ann@desk", "since": 1.0, "until": 2.0}
    here, elsewhere = ({"device": "edge", "lease": {**lease, "rollout": x * 16}} for x in ("ab", "cd"))

    assert lock._shown(here, lock._numbers())[2] == str(number)
    assert lock._shown(elsewhere, lock._numbers())[2] == "cdcdcdcd"


def test_a_whole_fleet_is_not_forgiven_unasked(slmops, fleet):
    asked = slmops("device", "forgive", "--fleet", fleet)
    picked = slmops("device", "forgive", "--fleet", fleet, "-l", "edge-1")

    assert asked.code == 2
    assert "Let every device of" in asked.err
    assert picked.code == 4
    assert picked.out == ""
    assert picked.err.split()[:3] == ["device", "error", "edge-1"]


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_a_lock_is_not_broken_without_a_reason_that_can_be_told(slmops, fleet, driven, reason):
    ended = slmops("lock", "break", fleet, "--reason", reason, "--yes")

    assert ended.code == 2
    assert "--reason: expected one line" in ended.err
    assert driven.driver_of("lab") is not None


def test_nobody_is_asked_to_forgive_a_release_that_is_not_there(slmops, fleet):
    ended = slmops("device", "forgive", "--fleet", fleet, "--release", "nothing:1.0.0", "--yes")

    assert ended.code == 1
    assert "SLM-RELEASE" in ended.err

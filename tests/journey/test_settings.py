"""The daemon's settings in the fleet file: a deploy puts them to the proof, and takes them back."""

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]
RELEASE = ("--release", "home-commands:1.0.0", "--yes")


@pytest.fixture
def fleet(operator, tmp_path):
    """Two devices with home-commands 1.0.0."""
    file = operator.fleet(2, tmp_path / "fleet", "local")
    operator("deploy", file, *RELEASE)
    return file


def change(fleet, seats, ports=None, **more):
    """Say in the fleet file how many seats daemons have, and at which `ports` some of them answer."""
    said = yaml.safe_load(fleet.read_text())
    said.setdefault("defaults", {})["daemon"] = {"seats": seats, **more}
    said.setdefault("rollout", {})["on_error"] = "rollback-all"
    for device in said["devices"]:
        if device["name"] in (ports or {}):
            device["daemon_port"] = ports[device["name"]]
    fleet.write_text(yaml.safe_dump(said))


def seats(fleet, name):
    """Return with how many seats a device's router runs; None where nobody said."""
    child = json.loads((fleet.parent / name / "home/.slmops/run/daemon.json").read_text())["child"]
    words = (Path("/proc") / str(child["pid"]) / "cmdline").read_bytes().decode().split("\0")
    return int(words[words.index("--seats") + 1]) if "--seats" in words else None


def test_a_deploy_of_what_serves_already_brings_changed_settings_and_a_rollback_the_old_ones(operator, fleet):
    change(fleet, 5)

    planned = operator("plan", fleet, *RELEASE[:2])
    operator("deploy", fleet, *RELEASE)

    assert "seats default -> 5" in planned
    assert [seats(fleet, name) for name in ("edge-1", "edge-2")] == [5, 5]
    assert "already" in operator("deploy", fleet, *RELEASE)

    shown = operator("rollback", fleet, "--yes")

    assert "run as before" in shown
    assert [seats(fleet, name) for name in ("edge-1", "edge-2")] == [None, None]
    assert operator.serves(fleet) == dict.fromkeys(("edge-1", "edge-2"), "home-commands:1.0.0")


def test_a_rollback_of_settings_that_is_repeated_leaves_the_release_alone(operator, fleet):
    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    change(fleet, 5)
    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    operator("rollback", fleet, "--yes")

    again = operator("rollback", fleet, "--yes")

    assert "gone back already; --to goes to another, as home-commands:1.0.0" in " ".join(again.split())
    assert operator.serves(fleet) == dict.fromkeys(("edge-1", "edge-2"), "home-commands:1.0.1")


def test_settings_that_one_device_cannot_have_go_back_everywhere_and_the_release_stays(operator, fleet):
    change(fleet, 5)
    operator("deploy", fleet, *RELEASE)

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        change(fleet, 6, {"edge-2": taken.getsockname()[1]})
        operator("deploy", fleet, *RELEASE, exits=5)

    assert [seats(fleet, name) for name in ("edge-1", "edge-2")] == [5, 5]
    assert operator.serves(fleet) == dict.fromkeys(("edge-1", "edge-2"), "home-commands:1.0.0")


def test_a_limit_that_the_release_does_not_keep_within_is_said_and_taken_back(operator, fleet):
    change(fleet, 5, memory_limit="1MiB")

    told = operator("deploy", fleet, *RELEASE, exits=5)

    assert "does not fit: it needs" in told.partition("went back")[2]
    assert [seats(fleet, name) for name in ("edge-1", "edge-2")] == [None, None]
    assert operator.serves(fleet) == dict.fromkeys(("edge-1", "edge-2"), "home-commands:1.0.0")

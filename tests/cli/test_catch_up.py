"""Who is to come to what, read from a real history; and what a rollback writes there."""

import json
import subprocess
import sys
from contextlib import closing

import pytest

from slmops.cli.status import RELEASE, RUN_BEFORE, way_back
from slmops.cli.take_back import left, take_back
from slmops.errors import LockedError
from slmops.fleet.load import load_fleet
from slmops.rollout.history import History

FLEET = """
name: plant
defaults: {user: nobody, connect_timeout: 1}
devices:
  - {name: edge-1, host: 127.0.0.1, port: 1, profile: local}
  - {name: edge-2, host: 127.0.0.1, port: 2, profile: local}
  - {name: edge-3, host: 127.0.0.1, port: 3, profile: local}
"""
HOLDER = """
import sys
from pathlib import Path
from slmops.rollout.history import History
history = History(Path(sys.argv[1]))
number = history.begin("plant", "a:9", "sha256:00", [[], ["edge-1"]])
history.hold("plant", number, 5, "bob@desk")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def fleet(tmp_path):
    """A fleet of three whom nobody can reach."""
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    return file


@pytest.fixture
def past(home):
    """Write a rollout into the history: its release, how it ended, where its devices ended."""

    def write(release, state, left=None, **devices):
        with closing(History(home / "rollouts.sqlite")) as history:
            names = [name.replace("_", "-") for name in devices]
            options = {} if left is None else {"left": left}
            number = history.begin("plant", release, "sha256:00", [[], names], options=options)
            for name, where in zip(names, devices.values(), strict=True):
                history.told(number, name, where)
            history.moved(number, state, 0)
        return number

    return write


def rows(slmops, fleet, *words):
    ended = slmops("rollout", "catch-up", fleet, "-o", "json", *words)
    assert ended.code == 0, ended.err
    return {row["device"]: row for row in json.loads(ended.out)["devices"]}


def test_each_device_has_its_own_target_or_a_reason_to_stay(slmops, fleet, past):
    past("a:1", "succeeded", edge_1="committed", edge_2="skipped", edge_3="skipped")
    past("a:2", "partial", edge_1="committed", edge_2="lost")
    past("a:3", "went back", edge_1="returned", edge_2="skipped", edge_3="skipped")

    found = rows(slmops, fleet, "--yes")

    assert [(row["does"], row["target"]) for row in found.values()] == [
        ("stays", None),
        ("away", "a:2"),
        ("away", "a:1"),
    ]
    assert found["edge-1"]["why"] == "it has a:2 by rollout 2"
    assert json.loads(slmops("audit", "list", "-o", "json").out) == [], "nobody was brought anything"


def test_a_rollout_that_is_not_over_is_waited_for(slmops, fleet, past):
    past("a:1", "succeeded", edge_1="committed", edge_2="skipped")
    past("a:2", "paused", edge_1="committed", edge_2="waiting")

    found = rows(slmops, fleet, "-l", "edge-2")

    assert found["edge-2"]["why"] == "rollout 2 is not over: it is paused"
    assert "Nobody in reach lags." in slmops("rollout", "catch-up", fleet, "--dry-run").err


@pytest.mark.parametrize(
    "words", [("10m",), ("0s", "--yes"), ("soon", "--yes"), ("1m", "--yes", "--dry-run")]
)
def test_a_watch_needs_a_span_and_a_yes(slmops, fleet, words):
    assert slmops("rollout", "catch-up", fleet, "--watch", *words).code == 2


def stood(fleet):
    """Return a fleet and what its devices said: two can go back, the third had nothing before."""
    whole, devices = load_fleet(fleet)
    said = [
        {"device": device.name, "release": "a:2", "previous": before, "digest": "sha256:" + "0" * 64,
         "health": "healthy", "way_back": before and "release"}
        for device, before in zip(devices, ("a:1", "a:1", None), strict=True)
    ]  # fmt: skip
    return whole, dict(zip(devices, said, strict=True))


def test_a_rollback_stands_in_history_with_all_who_were_meant(slmops, fleet, home, past):
    number = past("a:2", "paused", edge_1="committed", edge_2="committed", edge_3="committed")

    ends = take_back(*stood(fleet))

    assert [end["outcome"] for end in ends] == ["unreachable", "unreachable", "stays"]
    with closing(History(home / "rollouts.sqlite")) as history:
        entry = history.find(None)
        assert (entry.release, entry.state, left(entry)) == ("back from a:2", "refused", {"a:2"})
        assert {line.device: line.state for line in history.devices(entry.id)} == {
            "edge-3": "skipped", "edge-1": "lost", "edge-2": "lost",
        }  # fmt: skip
        assert history.find(number).state == "superseded"
        assert history.driver_of("plant") is None
    assert "back from a:2" in slmops("rollout", "list").out


def test_nobody_is_taken_back_while_somebody_drives_a_rollout_over_the_fleet(fleet, home):
    home.mkdir()
    words = [sys.executable, "-c", HOLDER, home / "rollouts.sqlite"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(LockedError, match="bob@desk") as refused:
            take_back(*stood(fleet))

    assert refused.value.exit_code == 8
    with closing(History(home / "rollouts.sqlite")) as history:
        assert history.find(None).state == "refused"


def test_a_rollback_that_could_move_nobody_counts_for_nothing(slmops, fleet, past):
    past("a:2", "partial", edge_1="committed", edge_2="committed", edge_3="skipped")
    take_back(*stood(fleet))

    found = rows(slmops, fleet)

    assert (found["edge-1"]["does"], found["edge-3"]["target"]) == ("stays", "a:2")


@pytest.mark.parametrize(
    ("said", "leads"),
    [
        ({}, None),
        ({"previous": {"reference": "a:1"}}, RELEASE),
        ({"previous": {"reference": None, "damage": "gone"}}, None),
        ({"earlier": {"port": 1}}, RUN_BEFORE),
        ({"earlier": {"port": 1}, "moved": {"kind": "activated", "rollout": "blue"}}, RUN_BEFORE),
        ({"previous": {"reference": "a:1"}, "moved": {"kind": "rolled_back", "rollout": None}}, None),
        ({"earlier": {"port": 1}, "release": {"damage": "rot"}, "previous": {"reference": "a:1"}}, RELEASE),
        ({"earlier": {"port": 1}, "release": {"damage": "rot"}}, None),
    ],
)
def test_the_way_back_leads_to_what_can_be_served(said, leads):
    whole = {"release": {"reference": "a:2"}, "previous": None} | said
    assert way_back({**whole, "standing": {key: said.get(key) for key in ("earlier", "moved")}}) == leads

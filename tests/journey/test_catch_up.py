"""Devices that were away come to what their fleet has proved, and never to what it was taken back from."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo/model"
pytestmark = [pytest.mark.journey, pytest.mark.timeout(500)]


def power(what, fleet, device):
    """Switch a device; what it starts lives on, and would hold a pipe open."""
    words = [ROOT / "scripts/fleet-power", what, fleet.parent, device]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def return_(operator, fleet, device):
    """Switch a device on, and wait until its daemon answers."""
    power("on", fleet, device)
    end = time.monotonic() + 120
    while True:
        (row,) = operator.json("status", fleet, "-l", device)["devices"]
        if row["health"] == "healthy" or time.monotonic() > end:
            return
        time.sleep(0.2)


def make(operator, version, type_):
    operator("quantize", MODEL, "--profile", "local", "--type", type_, "--name", "home-commands",
             "--version", version, "--golden", MODEL / "golden.jsonl")  # fmt: skip


@pytest.fixture
def fleet(operator, tmp_path):
    """Three devices with home-commands 1.0.0, a third of which may be away; 1.2.0 and 1.3.0 are there too."""
    make(operator, "1.2.0", "Q8_0")
    make(operator, "1.3.0", "Q4_K_M")
    file = operator.fleet(3, tmp_path / "fleet", "local")
    said = file.read_text().replace("rollout:\n", "rollout:\n  max_unreachable: 2\n")
    file.write_text(said)
    operator("deploy", file, "--release", "home-commands:1.0.0", "--yes")
    return file


def deploy(operator, fleet, version, exits):
    operator("deploy", fleet, "--release", f"home-commands:{version}", "--yes", exits=exits)


def serve(operator, fleet, version, *devices):
    found = operator.serves(fleet)
    assert {device: found[device] for device in devices} == dict.fromkeys(devices, f"home-commands:{version}")


def rows(operator, fleet, *words, exits=0):
    found = operator.json("rollout", "catch-up", fleet, *words, exits=exits)
    return {row["device"]: row for row in found["devices"]}


def test_a_device_that_was_away_for_three_releases_comes_straight_to_the_newest(operator, fleet):
    power("off", fleet, "edge-3")
    for version in ("1.0.1", "1.2.0", "1.3.0"):
        deploy(operator, fleet, version, exits=4)
    away = rows(operator, fleet, "--yes")["edge-3"]
    assert (away["does"], away["target"]) == ("away", "home-commands:1.3.0")
    power("on", fleet, "edge-3")

    plan = rows(operator, fleet, "--dry-run")
    assert {device: row["does"] for device, row in plan.items()} == {
        "edge-1": "stays", "edge-2": "stays", "edge-3": "comes",
    }  # fmt: skip
    came = rows(operator, fleet, "--yes")["edge-3"]

    assert came["does"] == "committed"
    serve(operator, fleet, "1.3.0", "edge-1", "edge-2", "edge-3")
    decided = operator("device", "logs", "edge-3", "--fleet", fleet, "--of", "agent", "--lines", 200)
    assert decided.count("activated") == 2, "1.0.0 and 1.3.0, and nothing between"
    entry = operator.json("rollout", "show")
    assert (entry["release"], entry["state"]) == ("home-commands:1.3.0", "succeeded")
    assert [line["device"] for line in entry["devices"]] == ["edge-3"]
    assert "Nobody in reach lags." in operator("rollout", "catch-up", fleet, "--yes")
    operator("audit", "verify")
    (act,) = operator.json("audit", "list", "--action", "rollout catch-up")
    assert (act["devices"], act["end"]["exit_code"]) == (["edge-3"], 0)


def test_what_a_fleet_was_taken_back_from_comes_to_nobody(operator, fleet):
    """One device was away when the release came, another when the fleet was taken back from it."""
    power("off", fleet, "edge-3")
    deploy(operator, fleet, "1.2.0", exits=4)
    power("off", fleet, "edge-2")

    ends = {end["device"]: end["outcome"] for end in operator.json("rollback", fleet, "--yes", exits=6)}

    assert ends == {"edge-1": "ok", "edge-2": "unreachable", "edge-3": "unreachable"}
    (entry, *_) = operator.json("rollout", "list")
    assert (entry["release"], entry["state"]) == ("back from home-commands:1.2.0", "partial")
    lines = operator.json("rollout", "show", entry["id"])["devices"]
    assert {line["device"]: line["state"] for line in lines} == {
        "edge-1": "returned", "edge-2": "lost", "edge-3": "lost",
    }  # fmt: skip
    return_(operator, fleet, "edge-2")
    return_(operator, fleet, "edge-3")
    serve(operator, fleet, "1.2.0", "edge-2")

    found = rows(operator, fleet, "--yes")

    assert found["edge-1"]["why"] == f"rollback {entry['id']} took it back"
    assert (found["edge-2"]["does"], found["edge-3"]["does"]) == ("committed", "stays")
    serve(operator, fleet, "1.0.0", "edge-1", "edge-2", "edge-3")
    # Once more changes nothing: there is nothing before it to go back to.
    assert {end["outcome"] for end in operator.json("rollback", fleet, "-l", "edge-1", "--yes")} == {"stays"}
    operator("audit", "verify")
    assert operator.json("audit", "list", "--action", "rollback")[1]["end"]["rollout"] == entry["id"]


def test_who_watches_sees_a_device_return_and_brings_it_up_to_date(operator, fleet):
    power("off", fleet, "edge-2")
    deploy(operator, fleet, "1.3.0", exits=4)
    watching = operator.start("rollout", "catch-up", fleet, "--watch", "1s", "--yes", "-o", "json")
    first = json.loads(watching.stdout.readline())
    power("on", fleet, "edge-2")
    then = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=60)

    assert (first["device"], first["does"]) == ("edge-2", "away")
    assert (then["device"], then["does"], then["target"]) == ("edge-2", "committed", "home-commands:1.3.0")
    assert watching.returncode == 0
    serve(operator, fleet, "1.3.0", "edge-1", "edge-2", "edge-3")

"""The main job, on the bundled model: deploy, ask, a bad release that goes back, a rollback."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
QUESTION = "turn the kitchen lamp to forty percent"
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}


def journal(fleet: Path, device: str) -> list[dict[str, object]]:
    path = fleet.parent / device / "home/.slmops/journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_fleet_answers_and_a_bad_release_goes_back_by_itself(operator, tmp_path):
    fleet = operator.fleet(3, tmp_path / "fleet")

    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.0"}
    for device in ("edge-1", "edge-2", "edge-3"):
        assert json.loads(operator.json("ask", fleet, device, QUESTION)["answer"]) == ANSWER

    told = operator("deploy", fleet, "--release", "home-commands:1.1.0", "--yes", exits=5)
    assert "golden prompts failed" in told
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.0"}
    assert [record["kind"] for record in journal(fleet, "edge-1")][-2:] == ["activated", "rolled_back"]
    for untouched in ("edge-2", "edge-3"):
        assert [record["kind"] for record in journal(fleet, untouched)] == [
            "activated",
            "proved",
            "confirmed",
        ]

    shown = operator.json("rollout", "show")
    assert {line["device"]: line["state"] for line in shown["devices"]} == {
        "edge-1": "went back", "edge-2": "waiting", "edge-3": "waiting",
    }  # fmt: skip
    failed = shown["devices"][0]["evidence"]["failed"][0]
    assert failed["answer"] != json.dumps(failed["expected"])
    assert json.loads(operator.json("ask", fleet, "edge-1", QUESTION)["answer"]) == ANSWER


def test_a_rollback_serves_the_release_before_and_to_names_another(operator, tmp_path):
    fleet = operator.fleet(2, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")

    operator("rollback", fleet, "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.0"}

    operator("rollback", fleet, "--to", "1.0.1", "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.1"}

    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", "-l", "edge-2")
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.1", "edge-2": "home-commands:1.0.0"}


def test_a_first_release_that_fails_leaves_the_device_with_none(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")

    operator("deploy", fleet, "--release", "home-commands:1.1.0", "--yes", exits=5)

    assert operator.serves(fleet) == {"edge-1": None}
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}


def test_deploying_what_is_there_already_sends_nothing_and_restarts_nothing(operator, tmp_path):
    fleet = operator.fleet(2, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    before = [journal(fleet, "edge-1"), journal(fleet, "edge-2")]
    daemon = (fleet.parent / "edge-1/home/.slmops/run/daemon.json").read_text()

    told = operator.json("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")

    assert set(told["devices"].values()) == {"already"}
    assert [journal(fleet, "edge-1"), journal(fleet, "edge-2")] == before
    assert (fleet.parent / "edge-1/home/.slmops/run/daemon.json").read_text() == daemon


def test_a_daemon_that_is_killed_is_started_again(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    said = json.loads((fleet.parent / "edge-1/home/.slmops/run/daemon.json").read_text())

    subprocess.run(["kill", "-9", str(said["child"]["pid"])], check=True)

    # A deploy of the same release proves the device again, waiting until it is ready.
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    assert operator.serves(fleet) == {"edge-1": "home-commands:1.0.0"}


def test_ctrl_c_in_a_deploy_leaves_every_device_whole_and_a_second_run_finishes(operator, tmp_path):
    fleet = operator.fleet(3, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")

    process = operator.start("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    assert process.stderr is not None
    for line in process.stderr:
        if "edge-1" in line and "trial" in line:
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=120)

    assert process.returncode == 130
    assert operator.serves(fleet) == {
        "edge-1": "home-commands:1.0.1", "edge-2": "home-commands:1.0.0", "edge-3": "home-commands:1.0.0",
    }  # fmt: skip
    operator("deploy", fleet, "--release", "home-commands:1.0.1", "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.1"}


def test_retiring_a_device_leaves_nothing_of_slmops_there(operator, tmp_path):
    fleet = operator.fleet(1, tmp_path / "fleet")
    operator("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    said = json.loads((fleet.parent / "edge-1/home/.slmops/run/daemon.json").read_text())

    operator("device", "retire", "edge-1", "--fleet", fleet, "--yes")

    assert not (fleet.parent / "edge-1/home/.slmops").exists()
    assert not Path(f"/proc/{said['child']['pid']}").exists()

"""A plan over real SSH: made, kept, carried out, and refused once the world has moved."""

import json

import pytest
import yaml

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]


@pytest.fixture
def fleet(operator, tmp_path):
    """Return the fleet file of three devices, whose waves do not soak."""
    path = operator.fleet(3, tmp_path / "fleet", "local")
    said = yaml.safe_load(path.read_text())
    said["rollout"] = {"canary": 1, "waves": ["100%"], "soak": 0}
    path.write_text(yaml.safe_dump(said))
    return path


def test_a_plan_is_kept_and_carried_out_and_refused_once_the_world_has_moved(operator, fleet, tmp_path):
    kept = tmp_path / "plan.json"
    made = operator.json("plan", fleet, "--release", "home-commands:1.0.0", "--out", kept)

    assert json.loads(kept.read_text()) == made
    assert [(each["device"], each["does"], each["wave"]) for each in made["devices"]] == [
        ("edge-1", "deploy", 1),
        ("edge-2", "deploy", 2),
        ("edge-3", "deploy", 2),
    ]
    assert all(each["sends"] == each["bytes"] > 0 for each in made["devices"])
    assert all(each["memory"]["head_room"] > 0 and each["disk"]["head_room"] > 0 for each in made["devices"])
    assert [each["seconds"] for each in made["devices"]] == [None] * 3, "nothing was measured yet"
    assert not list((tmp_path / "fleet").glob("edge-*/home/.slmops")), "nobody was touched"

    operator("deploy", fleet, "--plan", kept, "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.0"}

    next_ = operator.json("plan", fleet, "--release", "home-commands:1.0.1", "--out", kept)
    assert all(each["seconds"] > 0 and each["known"] == "whole" for each in next_["devices"])
    assert next_["seconds"] == pytest.approx(sum(each["seconds"] for each in next_["waves"]))

    operator("deploy", fleet, "--release", "home-commands:1.0.1", "-l", "edge-2", "--yes")
    told = operator("deploy", fleet, "--plan", kept, "--yes", exits=1)
    assert "edge-2 has the release already" in told
    assert f"slmops plan {fleet} --release home-commands:1.0.1 --out plan.json" in told
    assert operator.serves(fleet) == {
        "edge-1": "home-commands:1.0.0",
        "edge-2": "home-commands:1.0.1",
        "edge-3": "home-commands:1.0.0",
    }

    operator("plan", fleet, "--release", "home-commands:1.0.1", "--out", kept)
    operator("deploy", fleet, "--plan", kept, "--yes")
    assert set(operator.serves(fleet).values()) == {"home-commands:1.0.1"}


def test_a_plan_names_every_device_that_cannot_take_the_release_and_touches_nobody(operator, fleet, tmp_path):
    said = yaml.safe_load(fleet.read_text())
    said["devices"][1]["profile"] = "raspberry-pi-5"
    said["devices"][2]["runtime"] = "/nowhere/python"
    fleet.write_text(yaml.safe_dump(said))

    made = operator.json("plan", fleet, "--release", "home-commands:1.0.0", exits=1)
    assert [(each["device"], each["does"]) for each in made["devices"]] == [
        ("edge-1", "deploy"),
        ("edge-2", "refused"),
        ("edge-3", "refused"),
    ]
    assert made["exit_code"] == 1

    told = operator("plan", fleet, "--release", "home-commands:1.0.0", exits=1)
    assert "no artifact for profile 'raspberry-pi-5'" in told
    assert "/nowhere/python does not start" in told
    assert "edge-2, edge-3 cannot take home-commands:1.0.0" in told
    assert not list((tmp_path / "fleet").glob("edge-*/home/.slmops"))

"""Who may ask a device's daemon, as its operator says."""

import json

import pytest

from slmops import keep_keys
from slmops import keys as held
from slmops.device.keys import keys
from slmops.device.places import Places
from slmops.errors import UsageError


@pytest.fixture
def places(tmp_path):
    made = Places(tmp_path / "root")
    made.make()
    return made


def test_a_device_has_no_keys_before_one_is_made(places):
    assert keys(places, {"action": "list"}) == {"keys": []}
    assert not places.keys.exists()


def test_a_key_is_made_told_once_and_revoked(places):
    said = keys(places, {"action": "create", "name": "app", "role": "operator", "lasts": 60})

    assert held.find(keep_keys.read(places.keys), said["key"], said["keys"][0]["created"]).role == "operator"
    assert said["key"].split("_", 2)[2] not in places.keys.read_text()
    assert "key" not in keys(places, {"action": "list"})
    (row,) = keys(places, {"action": "revoke", "key": "app"})["keys"]
    assert row["state"] == "revoked"
    assert keys(places, {"action": "revoke", "key": row["id"]})["keys"] == [row]


def test_what_cannot_be_done_is_refused(places):
    with pytest.raises(UsageError, match="nothing to do with keys"):
        keys(places, {"action": "open"})
    with pytest.raises(UsageError, match="role"):
        keys(places, {"action": "create", "name": "app", "role": "root"})


def test_an_operator_does_it_through_the_agent(device):
    said = device.get("keys", action="create", name="app", role="infer")

    assert said["key"].startswith("slm_")
    assert json.loads(device.places.keys.read_bytes())["keys"][0]["name"] == "app"

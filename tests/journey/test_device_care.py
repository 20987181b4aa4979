"""One device looked after by hand, over a real sshd: from bare machine to bare machine."""

import pytest

pytestmark = pytest.mark.journey


@pytest.fixture
def operator(operator_of, tmp_path):
    """An operator who never made anything."""
    made = operator_of(tmp_path / "home")
    yield made
    made.stop()


def test_a_device_is_bootstrapped_looked_at_and_left_as_it_was(operator, tmp_path):
    fleet = operator.fleet(2, tmp_path / "fleet")
    place = tmp_path / "fleet/edge-1/home/.slmops"

    said = operator.json("device", "bootstrap", "edge-1", "--fleet", fleet)

    assert said["device"] == "edge-1"
    assert said["facts"]["arch"]
    assert (place / "run/supervisor.json").exists()
    assert operator.json("device", "probe", "edge-1", "--fleet", fleet)["agent"] == said["agent"]
    (row,) = operator.json("device", "fsck", "edge-1", "--fleet", fleet, "--repair")["devices"]
    assert row["clean"]
    (place / ".new-torn").write_text("half")
    assert ".new-torn" in operator("device", "fsck", "edge-1", "--fleet", fleet, exits=7)
    assert "would give" in operator("device", "gc", "edge-1", "--fleet", fleet, "--dry-run")
    (freed,) = operator.json("device", "gc", "edge-1", "--fleet", fleet)["devices"]
    assert [each["path"] for each in freed["gone"]] == [".new-torn"]
    operator("device", "logs", "edge-1", "--fleet", fleet, "--of", "agent")

    key = operator.json(*("device", "keys", "edge-1", "create"), "--fleet", fleet, "--name", "app")["key"]
    assert key.startswith("slm_")
    assert key.split("_", 2)[2] not in (place / "keys.json").read_text()
    operator(*("device", "keys", "edge-1", "create"), "--fleet", fleet, "--name", "app", exits=1)
    assert "in force" in operator("device", "keys", "edge-1", "--fleet", fleet)
    assert "revoked" in operator("device", "keys", "edge-1", "revoke", "--fleet", fleet, "--name", "app")
    assert key not in (operator.home / "audit.jsonl").read_text()

    both = operator.json("device", "fsck", "--fleet", fleet, exits=4)["devices"]
    assert [row.get("clean") for row in both] == [True, None], "edge-2 has no agent"

    operator("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
    assert not place.exists()
    operator("device", "uninstall", "edge-1", "--fleet", fleet, "--yes")
    assert not place.exists(), "to ask twice does no harm"

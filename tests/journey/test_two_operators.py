"""Two operators who want the same devices at the same time, over real sshd."""

import shutil
from threading import Barrier, Thread

import pytest

from slmops.cli import home as homes
from slmops.errors import FencedError, LockedError, SlmopsError
from slmops.fleet import agent
from slmops.fleet.load import load_fleet

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]
RIVALS = 4


@pytest.fixture
def operators(built, operator_of, tmp_path):
    """Two operators with homes of their own and the same keys, and their fleet of one device."""
    made = []
    for name in ("ann", "bob"):
        shutil.copytree(built, tmp_path / name, symlinks=True)
        made.append(operator_of(tmp_path / name))
    made[0].fleet(1, tmp_path / "fleet")
    yield *made, tmp_path / "fleet/fleet.yaml"
    made[0].stop()


@pytest.fixture
def enroll(operators, monkeypatch):
    """Begin a rollout on the device as an operator's driver does; return what the device answers."""
    ann, _, fleet = operators
    monkeypatch.setenv("SLMOPS_HOME", str(ann.home))
    mandate, (device,) = homes.mandate(), load_fleet(fleet)[1]

    def begin(rollout, epoch, holder, seconds=60.0):
        lease = {"rollout": rollout, "epoch": epoch, "holder": holder, "seconds": seconds}
        with agent.session(device, (), lease) as session:
            return session.call("enroll", {"trust": mandate.said(), **device.told})

    return begin


def holders(operator, fleet):
    return [
        row["lease"] and row["lease"]["holder"] for row in operator.json("lock", "status", fleet)["devices"]
    ]


def test_of_rollouts_that_come_at_once_exactly_one_has_the_device(enroll):
    enroll("before", 1, "ann@desk", seconds=0.01)
    together, ends = Barrier(RIVALS), {}

    def come(number):
        together.wait()
        try:
            enroll(f"rollout-{number}", 10 + number, f"operator-{number}@desk")
            ends[number] = None
        except SlmopsError as error:
            ends[number] = error

    rivals = [Thread(target=come, args=(number,)) for number in range(RIVALS)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()

    won = [number for number, end in ends.items() if end is None]
    lost = [end for end in ends.values() if end is not None]
    assert len(won) == 1, ends
    assert len(lost) == RIVALS - 1
    for error in lost:
        assert isinstance(error, LockedError), error
        assert error.exit_code == 8
        assert f"operator-{won[0]}@desk" in str(error)


def test_a_deploy_leaves_a_device_alone_that_another_operator_holds_until_its_lease_is_broken(
    operators, enroll
):
    ann, bob, fleet = operators
    enroll("anns-rollout", 1, "ann@desk", seconds=600.0)
    assert holders(bob, fleet) == ["ann@desk"]

    deploy = bob.start("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")
    said = "".join(deploy.communicate(timeout=300))
    assert deploy.returncode != 0
    assert "ann@desk has this device" in said
    assert bob.json("status", fleet)["devices"][0]["health"] == "no release"

    bob("lock", "break", fleet, "--yes", exits=2)
    broken = bob.json("lock", "break", fleet, "--reason", "ann is on holiday", "--yes")
    assert [row["broken"]["reason"] for row in broken["devices"]] == ["ann is on holiday"]
    assert holders(bob, fleet) == [None]
    with pytest.raises(FencedError, match=r"took this device from rollout anns-rol.*: ann is on holiday"):
        enroll("anns-rollout", 1, "ann@desk")

    enroll("bobs-rollout", 2**40, "bob@desk")
    assert holders(ann, fleet) == ["bob@desk"]


def test_a_lease_whose_operator_is_gone_ends_by_itself(operators, enroll):
    _, bob, fleet = operators
    enroll("anns-rollout", 1, "ann@desk", seconds=0.05)

    bob("deploy", fleet, "--release", "home-commands:1.0.0", "--yes")

    assert bob.serves(fleet) == {"edge-1": "home-commands:1.0.0"}
    with pytest.raises(FencedError, match="epoch 1, and epoch"):
        enroll("anns-rollout", 1, "ann@desk")


def test_an_application_puts_a_deploy_off_and_an_operator_may_override_it(operators, tmp_path):
    _, bob, fleet = operators
    bob("device", "bootstrap", "edge-1", "--fleet", fleet)
    lock = tmp_path / "fleet/edge-1/home/.slmops/update-lock"
    lock.write_text('{"why": "a customer is paying"}')

    assert "a customer is paying" in bob("lock", "status", fleet)
    bob("deploy", fleet, "--release", "home-commands:1.0.0", "--yes", "--override-lock")

    assert bob.serves(fleet) == {"edge-1": "home-commands:1.0.0"}

"""Changed settings of the daemon where an operator dies or another one asks: the device's own word counts."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from _fault_bed import Bed, until
from _person import DEVICE, ENTER, Operator

from slmops.device import journal

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


@pytest.fixture
def bed(tmp_path):
    """One device that serves a second release."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        pytest.skip("sshd is not installed")
    with Bed(tmp_path, 1) as bed:
        for _ in range(2):
            assert bed.operator(*bed.deploy(bed.release())) == 0, bed.operator.said()
        yield bed


def stands(bed):
    """Return which of the bed's releases the device serves, and with which flags."""
    standing = bed.targets[0].standing()
    return list(bed.slots.values()).index(standing.slot) + 1, standing.settings["daemon"]


def dies(bed, seats, state):
    """Bring other settings, and die before history hears that the device came to a state."""
    bed.set_device("edge-1", daemon={"seats": seats})
    words = bed.deploy(list(bed.slots)[-1])
    assert bed.operator(*words, die={"what": DEVICE, "state": state, "at": ENTER}) == -signal.SIGKILL


def test_settings_that_were_committed_unheard_go_back_though_the_fleet_file_says_others_by_now(bed):
    dies(bed, 5, "committed")
    assert stands(bed) == (2, {"seats": 5})
    bed.set_device("edge-1", daemon={"seats": 6})

    assert bed.operator("rollout", "abort", "--back", "wave", "--yes") == 5, bed.operator.said()

    assert bed.states() == {"edge-1": "returned"}
    assert stands(bed) == (2, {})


def test_a_device_that_went_back_alone_is_taken_no_further_where_the_fleet_file_was_put_back(bed):
    bed.strategy(confirm_timeout="1s")
    dies(bed, 5, "proved")
    until(lambda: bed.targets[0].standing().trial is None)
    bed.set_device("edge-1", daemon={})

    assert bed.operator("rollout", "abort", "--back", "wave", "--yes") == 5, bed.operator.said()

    assert bed.states() == {"edge-1": "already"}
    assert stands(bed) == (2, {})


def test_a_device_that_went_back_to_what_an_agent_of_before_wrote_is_not_told_as_stuck(bed):
    target = bed.targets[0]
    standing = target.standing()
    silent = {key: said for key, said in standing.settings.items() if key != "daemon"}
    with journal.locked(target.places):
        journal.append(target.places, "restarted", slot=standing.slot, settings=silent)
    until(target.answers)
    # It runs what it did before: only nobody watches over it.
    (supervisor,) = target.supervisors()
    os.kill(supervisor, signal.SIGKILL)
    bed.strategy(ready_timeout="5s")
    bed.set_device("edge-1", runtime=str(bed.broken_runtime), daemon={"seats": 5})

    assert bed.operator(*bed.deploy(list(bed.slots)[-1])) != 0

    assert bed.states() == {"edge-1": "went back"}, bed.operator.said()
    assert target.standing().settings == silent
    until(target.answers)


def test_another_operator_takes_nobody_further_back_who_was_taken_back(bed, tmp_path):
    bed.set_device("edge-1", daemon={"seats": 5})
    assert bed.operator(*bed.deploy(list(bed.slots)[-1])) == 0, bed.operator.said()
    shutil.copytree(bed.home, tmp_path / "bob/home")
    assert bed.operator("rollback", bed.fleet, "--yes") == 0, bed.operator.said()
    assert stands(bed) == (2, {})

    with Operator(tmp_path / "bob/home") as bob:
        assert bob("rollback", bed.fleet, "--yes") == 0, bob.said()
        assert "gone back already" in " ".join(bob.said().split())
        assert stands(bed) == (2, {})

        assert bob(*bed.deploy(list(bed.slots)[-1])) == 0, bob.said()
    assert stands(bed) == (2, {"seats": 5})
    # What another one brought since may go back, though this one's history says that it has.
    assert bed.operator("rollback", bed.fleet, "--yes") == 0, bed.operator.said()
    assert stands(bed) == (2, {})

"""The fault campaign: what is cheap of it, and all of it on demand (`scripts/test -m faults`)."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import _fault_deaths as deaths
import _fault_kills as kills
import _fault_matrix as matrix
from _fault_bed import Bed

pytestmark = [
    pytest.mark.journey,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists(), reason="sshd is not installed"
    ),
]


def test_an_agent_killed_at_any_point_of_any_verb_ends_as_the_table_says(tmp_path):
    with Bed(tmp_path, matrix.devices(), interposed=True) as bed:
        assert matrix.matrix(bed, print, matrix.KILL) == []


def test_an_operator_who_dies_is_followed_by_one_who_goes_on(tmp_path):
    with Bed(tmp_path, 3) as bed:
        count, broken = deaths.deaths(bed, print, every=9)

    assert broken == []
    assert count == 4


def test_random_kills_leave_every_device_serving_and_able_to_go_on(tmp_path):
    with Bed(tmp_path, 5) as bed:
        tally = kills.campaign(bed, seed=1, kills=12, say=print)

    assert tally.breaks == []
    assert tally.kills >= 12


@pytest.mark.faults
def test_a_fault_at_any_point_of_any_verb_ends_as_the_table_says(tmp_path):
    with Bed(tmp_path, matrix.devices(), interposed=True) as bed:
        assert matrix.matrix(bed, print) == []


@pytest.mark.faults
def test_an_operator_who_dies_at_any_state_is_followed_by_one_who_goes_on(tmp_path):
    with Bed(tmp_path, 3) as bed:
        assert deaths.deaths(bed, print) == (len(deaths.all_deaths()), [])


@pytest.mark.faults
def test_two_hundred_random_kills_leave_every_device_serving_and_able_to_go_on(tmp_path):
    with Bed(tmp_path, 10) as bed:
        tally = kills.campaign(bed, seed=1, kills=200, say=print)

    assert tally.breaks == []
    assert tally.kills >= 200
    assert {what for what, _ in tally.hits} == {*kills.ON_A_DEVICE, kills.OPERATOR}

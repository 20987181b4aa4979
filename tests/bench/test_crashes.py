"""A device that is killed, or whose disk fails, at some of the points that `bench/crashes.py` tries."""

import shutil

import crashes
import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_install_that_is_broken_anywhere_leaves_a_device_that_serves_and_heals(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    tally = crashes.campaign(crashes.Bed(tmp_path), every=29, full_every=3)

    assert tally.breaks == []
    assert tally.points >= 8
    assert {name for name, found in tally.by_step.items() if found["runs"]} >= {
        "prepare",
        "stage",
        "activate",
    }

"""Bad models, planted on a device that serves a good one: real agent, real daemon, real weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench/bad_models.py"


@pytest.mark.journey
def test_what_is_planted_goes_back_and_what_is_good_stays(tmp_path):
    found = tmp_path / "found.json"
    words = [sys.executable, str(BENCH), "--quick", "--save", str(found)]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    judged = json.loads(found.read_text())
    assert {one["outcome"] for one in judged if one["kind"] == "good"} == {"pass"}
    assert {one["code"] for one in judged if one["kind"] != "good"} == {"GATE_QUALITY"}

"""The scripts that make devices, as far as they refuse."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["fleet-up", "1", "new", "--profile", "nosuch"], "no profile is named 'nosuch'"),
        (["fleet-up", "none", "new"], "expected a number of devices"),
        (["fleet-down", "nowhere"], "fleet-down: there is no folder nowhere"),
        (["fleet-power", "on", "nowhere", "edge-1"], "fleet-power: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_begins(tmp_path, words, why):
    words = [SCRIPTS / words[0], *words[1:]]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert why in done.stderr
    assert not list(tmp_path.iterdir())

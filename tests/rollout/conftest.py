"""Lets these tests import the fleet that is only thought of, which benchmarks use too."""

import importlib
import sys
from pathlib import Path

import pytest

from slmops.rollout.history import History

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))


@pytest.fixture
def bed(tmp_path):
    """Six devices, and who rolls out over them."""
    history = History(tmp_path / "rollouts.sqlite")
    yield importlib.import_module("_fake_operator").FakeOperator(history)
    history.close()

"""Lets these tests import the benchmarks they are about."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))


@pytest.fixture(scope="session")
def room(tmp_path_factory):
    """Where random models lie, each made once."""
    return tmp_path_factory.mktemp("models")

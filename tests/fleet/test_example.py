"""The example fleet file is the schema, the documentation and this test."""

from pathlib import Path

import pytest
import yaml

from slmops.fleet.inventory import Entry, Fleet, Group, Settings
from slmops.fleet.load import load_fleet
from slmops.fleet.strategy import Strategy

EXAMPLE = Path(__file__).parents[2] / "fleet.example.yaml"


@pytest.fixture(scope="module")
def text():
    return EXAMPLE.read_text(encoding="utf-8")


def test_the_example_is_a_fleet():
    fleet, devices = load_fleet(EXAMPLE)

    assert fleet.name == "stores-eu"
    assert len(devices) == 13
    assert devices[0].labels == {"site": "berlin", "country": "de", "ring": "canary"}


@pytest.mark.parametrize("model", [Fleet, Settings, Group, Entry, Strategy])
def test_every_key_of_the_schema_stands_in_the_example(text, model):
    assert [key for key in model.model_fields if f"{key}:" not in text] == []


def test_what_the_example_calls_defaults_are_the_defaults(text):
    said = yaml.safe_load(text)["rollout"]
    said.pop("soak")

    assert Strategy(**said) == Strategy()

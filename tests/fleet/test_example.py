"""The example fleet file is the schema, the documentation and this test."""

from pathlib import Path

import pytest
import yaml

from slmops.fleet.inventory import Daemon, Entry, Fleet, Group, Settings
from slmops.fleet.load import load_fleet
from slmops.fleet.strategy import Canary, MaxUnavailable, Quarantine, Rate, Step, Strategy
from slmops.fleet.window import Window

EXAMPLE = Path(__file__).parents[2] / "fleet.example.yaml"


@pytest.fixture(scope="module")
def text():
    return EXAMPLE.read_text(encoding="utf-8")


def test_the_example_is_a_fleet():
    fleet, devices = load_fleet(EXAMPLE)

    assert fleet.name == "stores-eu"
    assert len(devices) == 13
    assert devices[0].labels == {"site": "berlin", "country": "de", "ring": "canary"}


@pytest.mark.parametrize(
    "model",
    [Fleet, Settings, Daemon, Group, Entry, Strategy, Canary, Step, MaxUnavailable, Rate, Window, Quarantine],
)
def test_every_key_of_the_schema_stands_in_the_example(text, model):
    keys = [about.alias or name for name, about in model.model_fields.items()]

    assert [key for key in keys if f"{key}:" not in text] == []


def test_what_the_example_calls_defaults_are_the_defaults(text):
    said = yaml.safe_load(text)["rollout"]
    said.pop("soak")

    assert Strategy(**said) == Strategy()


def test_what_the_example_shows_beside_the_defaults_can_be_said(text):
    shown = "\n".join(line.partition("# ")[2] for line in text.splitlines() if line.startswith("  # "))
    parts = {line.partition("     ")[0] for line in shown.splitlines() if line.startswith(("- ", "rate:"))}
    waves = [yaml.safe_load(part)[0] for part in parts if part.startswith("- ") and "from:" not in part]
    hours = [yaml.safe_load(part)[0] for part in parts if "from:" in part]
    rate = [yaml.safe_load(part)["rate"] for part in parts if part.startswith("rate:")]

    assert (len(waves), len(hours), len(rate)) == (3, 2, 1)
    assert Strategy(waves=waves, windows=hours, wave_timeout="3d", rate=rate[0])

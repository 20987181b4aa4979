"""What the fleet file may ask of the gate."""

import json
from dataclasses import asdict

import pytest
from pydantic import ValidationError

from slmops.device.bounds import Bounds
from slmops.fleet.gate import Gate


def test_the_device_understands_every_key_of_the_fleet_file():
    said = Gate().said()

    assert asdict(Bounds.of(said)) == said == json.loads(json.dumps(said))


def test_a_watch_is_a_duration_and_a_bound_of_null_asks_nothing():
    gate = Gate(watch="90s", least_speed_of_before=None)

    assert (gate.said()["watch"], gate.said()["least_speed_of_before"]) == (90.0, None)


STRANGE = [
    *({"watch": "soon"}, {"tolerance": 0}, {"most_errors": 2}, {"references": "maybe"}, {"warmth": 40}),
    *({"tolerance": float("inf")}, {"tolerance": float("nan")}, {"most_errors": float("nan")}),
]


@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_bound_is_refused(strange):
    with pytest.raises(ValidationError):
        Gate(**strange)

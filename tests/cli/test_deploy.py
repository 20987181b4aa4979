"""What is written down of a fleet that was looked at: what its devices may return to is never collected."""

from types import SimpleNamespace

import pytest

from slmops.cli import home
from slmops.cli.deploy import _remember
from slmops.errors import DeviceError
from slmops.fleet.inventory import Device
from slmops.registry import served
from slmops.rollout.check import Finding
from slmops.rollout.order import ModelParcel

FLEET = SimpleNamespace(name="plant")
PARCEL = ModelParcel(None, "pi", "33", b"", None, {}, None)
EDGE = Device("edge", "edge")


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """Write down what a look found of a device that had said that it has 11; return what is known."""
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path))
    served.record(home.served(), 1.0, {"plant/edge": ["sha256:11"]})

    def remember(finding, **how):
        _remember(FLEET, [finding], **{"dry_run": False} | how)
        return served.read(home.served())["plant/edge"].slots

    return remember


def test_a_device_keeps_what_it_has_and_what_it_is_to_have(remembered):
    assert remembered(Finding(EDGE, PARCEL, slots=("11", "22"))) == ("sha256:11", "sha256:22", "sha256:33")


def test_a_dry_run_promises_nothing(remembered):
    assert remembered(Finding(EDGE, PARCEL, slots=("22",)), dry_run=True) == ("sha256:22",)


def test_a_device_that_does_not_take_the_release_keeps_what_it_has(remembered):
    refusal = DeviceError("it does not fit")

    assert remembered(Finding(EDGE, PARCEL, slots=("22",), refusal=refusal)) == ("sha256:22",)


def test_of_a_device_that_was_not_seen_to_the_end_what_was_known_stays(remembered):
    assert remembered(Finding(EDGE, refusal=DeviceError("its agent broke"))) == ("sha256:11",)

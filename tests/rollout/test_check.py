"""What a look at a device finds that it lacks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from slmops.artifact.manifest import Artifact, Blob, Release
from slmops.artifact.runtime import Platform
from slmops.errors import IntegrityError
from slmops.fleet.inventory import Device
from slmops.rollout.check import Finding, changed, kept_slots, refuse_below_floor, runtime_remedy
from slmops.rollout.order import ModelParcel, RuntimeParcel

MODEL, ADAPTER = Blob("weights", "sha256:aa", 400_000), Blob("weights", "sha256:bb", 100_000)
BUILT = Artifact(Blob("config", "sha256:cc", 100), (("model.gguf", MODEL), ("adapter.gguf", ADAPTER)))
WHEELS = Artifact(Blob("config", "sha256:dd", 100), (("numpy.whl", Blob("code", "sha256:ee", 9_000)),))
PARCEL = ModelParcel(None, "pi", "00", b"", BUILT, {}, None)
RUNTIME = RuntimeParcel(None, "aarch64-cp311", "22", b"", WHEELS, {}, None)


def sent(**told):
    return sum(item.size for item in Finding(Device("edge", "edge"), PARCEL, **told).items({}))


def test_what_another_slot_holds_is_not_sent():
    assert sent(whole=("11",), held=frozenset({"sha256:aa"})) == 100_000


def test_a_device_that_says_nothing_of_what_it_holds_is_taken_to_hold_nothing():
    assert sent(whole=("11",)) == sent() == 500_000


def test_an_artifact_that_is_there_lacks_nothing():
    assert sent(whole=("00",)) == 0


def test_a_runtime_bundle_comes_before_the_model_and_once():
    assert sent(runtime=RUNTIME) == 509_000
    assert sent(runtime=RUNTIME, whole=("22",)) == 500_000


def test_a_device_on_trial_keeps_the_way_back_that_it_will_have_again():
    before = {"slot": "22", "previous": "11", "settings": {"runtime_slot": "aa"}}
    trial = {"slot": "33", "previous": "22", "settings": {"runtime_slot": "bb"}, "before": before}

    assert kept_slots(trial) == ("33", "22", "11", "bb", "aa")
    assert kept_slots({"slot": "33", "earlier": {"runtime_slot": "cc"}}) == ("33", "cc")
    assert kept_slots({}) == ()


def test_how_a_device_runs_its_daemon_is_held_against_the_fleet_file():
    device = Device("edge", "edge", daemon_port=11435, daemon={"seats": 8, "slots": 2})
    runs = {"runtime": ["python3"], "port": 11434, "daemon": {"seats": 8, "cors": ["https://a.example"]}}

    assert changed({"settings": runs}, device) == (
        "port 11434 -> 11435",
        "cors https://a.example -> default",
        "slots default -> 2",
    )
    asked = {"runtime": ["python3"], "port": 11435, "daemon": device.daemon}
    assert changed({"settings": asked}, device) == ()
    assert changed({"settings": {**asked, "runtime": ["/opt/py"]}}, device) == ("runtime /opt/py -> python3",)
    limited = replace(device, daemon={**device.daemon, "memory_limit": 2 << 30, "cache": 1500})
    assert changed({"settings": asked}, limited) == ("memory_limit default -> 2GiB", "cache default -> 1.5kB")
    for silent in ({}, {"settings": None}, {"settings": {"port": 1}}):
        assert changed(silent, device) == ()


def test_who_runs_the_release_otherwise_than_told_gets_it_again():
    found = Finding(Device("edge", "edge"), PARCEL, current=True)

    assert (found.has_it, found.goes) == (True, False)
    assert replace(found, changed=("seats 4 -> 8",)).goes


def test_a_release_below_the_floor_is_refused_in_the_plan_with_the_way_on():
    signed = SimpleNamespace(release=Release("parrot", "1.0.0", "2026-01-01T00:00:00Z", (), 3))
    old, device = replace(PARCEL, signed=signed), Device("edge", "edge")
    told = {"trust": {"floors": {"parrot": 5}}, "standing": {"slot": "11", "previous": None}}

    with pytest.raises(IntegrityError, match="its counter is 3, the floor is 5") as refused:
        refuse_below_floor(device, old, told, [])

    assert "slmops trust rotate --floor parrot=3" in refused.value.remedy
    for lets_in in (
        {"trust": {"floors": {"parrot": 3}}},
        {"trust": {"floors": {"other": 5}}},
        {"trust": None},
        {},
        {**told, "standing": {"slot": "11", "previous": "00"}},
    ):
        refuse_below_floor(device, old, lets_in, [])


def test_a_floor_that_root_lowered_since_is_the_one_that_will_hold():
    signed = SimpleNamespace(release=Release("parrot", "1.0.0", "2026-01-01T00:00:00Z", (), 3))
    old, device = replace(PARCEL, signed=signed), Device("edge", "edge")
    told = {"trust": {"version": 2, "floors": {"parrot": 5}}}
    lowered = SimpleNamespace(version=3, floors={"parrot": 3})
    later = SimpleNamespace(version=4, floors={})

    refuse_below_floor(device, old, told, [lowered, later])
    with pytest.raises(IntegrityError):
        refuse_below_floor(device, old, {"trust": {**told["trust"], "version": 3}}, [lowered, later])


def test_a_python_that_the_fleet_file_names_is_mended_there_and_a_bundle_is_built():
    platform, named = Platform("aarch64", "3.11"), Device("edge", "edge", runtime=("/nope/python",))

    assert "Correct `runtime` in the fleet file" in runtime_remedy(named, platform)
    assert "runtime build --platform aarch64-cp311" in runtime_remedy(Device("edge", "edge"), platform)

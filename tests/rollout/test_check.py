"""What a look at a device finds that it lacks."""

from slmops.artifact.manifest import Artifact, Blob
from slmops.fleet.inventory import Device
from slmops.rollout.check import Finding, kept_slots
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
    assert kept_slots({}) == ()

"""What a look at a device finds that it lacks."""

from slmops.artifact.manifest import Artifact, Blob
from slmops.rollout.check import to_come
from slmops.rollout.order import Parcel

MODEL, ADAPTER = Blob("weights", "sha256:aa", 400_000), Blob("weights", "sha256:bb", 100_000)
BUILT = Artifact(Blob("config", "sha256:cc", 100), (("model.gguf", MODEL), ("adapter.gguf", ADAPTER)))
PARCEL = Parcel("00", b"", BUILT, None, {})


def test_what_another_slot_holds_is_not_sent_and_takes_no_room():
    assert to_come(PARCEL, {"slots": ["11"], "held": ["sha256:aa"]}) == 100_000


def test_a_device_that_says_nothing_of_what_it_holds_is_taken_to_hold_nothing():
    assert to_come(PARCEL, {"slots": ["11"]}) == to_come(PARCEL, {}) == 500_000


def test_an_artifact_that_is_there_lacks_nothing():
    assert to_come(PARCEL, {"slots": ["00"]}) == 0

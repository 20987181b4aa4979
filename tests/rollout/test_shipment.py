"""What a device is sent: never what it holds, and no more for having more deltas to choose from."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact.manifest import Artifact, Blob
from slmops.registry.deltas import Delta
from slmops.rollout.shipment import shipment

DIGESTS = [f"sha256:{letter * 64}" for letter in "abcdef"]
SIZES = st.integers(0, 1000)


@st.composite
def artifacts(draw):
    digests = draw(st.lists(st.sampled_from(DIGESTS), min_size=1, unique=True))
    files = tuple((f"f{n}", Blob("weights", digest, draw(SIZES))) for n, digest in enumerate(digests))
    return Artifact(Blob("config", DIGESTS[0], 1), files)


DELTAS = st.lists(
    st.builds(
        Delta, st.sampled_from(DIGESTS), st.sampled_from(DIGESTS), st.just(Path("d")), st.just("x"), SIZES
    )
)
HELD = st.frozensets(st.sampled_from(DIGESTS))


def offers(deltas):
    return {target: [each for each in deltas if each.target == target] for target in DIGESTS}


def weight(items):
    return sum(item.size for item in items)


@given(artifacts(), HELD, DELTAS)
def test_what_is_held_is_not_sent_and_all_else_is(built, held, deltas):
    sent = {item.blob.digest for item in shipment(built, held, offers(deltas))}

    assert sent == {blob.digest for _, blob in built.files} - held


@given(artifacts(), HELD, DELTAS, DELTAS)
def test_more_deltas_never_make_a_shipment_larger(built, held, some, more):
    assert weight(shipment(built, held, offers(some + more))) <= weight(shipment(built, held, offers(some)))


@given(artifacts(), HELD, DELTAS)
def test_a_delta_is_sent_only_to_who_holds_its_base(built, held, deltas):
    for item in shipment(built, held, offers(deltas)):
        assert item.delta is None or (item.delta.base in held and item.delta.target == item.blob.digest)

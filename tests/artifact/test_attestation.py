"""The document in which a device says what it runs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact import attestation as attestations
from slmops.artifact.attestation import Attestation
from slmops.errors import IntegrityError

DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
HEX32 = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
ATTESTATIONS = st.builds(
    Attestation,
    device=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True),
    identity=HEX32,
    digest=st.none() | DIGESTS,
    golden=st.integers(0, 2**53 - 1),
    answers=st.none() | DIGESTS,
    nonce=st.none() | HEX32,
    epoch=st.integers(0, 2**53 - 1),
    at=st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")),
)


@given(ATTESTATIONS)
def test_what_is_written_is_read_back(attestation):
    data = attestations.render(attestation)

    assert attestations.parse(data) == attestation
    assert attestations.render(attestations.parse(data)) == data


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_bytes_make_it_raise_anything_else(data):
    with pytest.raises(IntegrityError):
        attestations.parse(data)


@given(ATTESTATIONS, st.sampled_from(["device", "identity", "digest", "golden", "nonce", "epoch", "at"]))
def test_a_field_that_is_none_of_its_kind_is_refused(attestation, field):
    said = json.loads(attestations.render(attestation)) | {field: [1]}

    with pytest.raises(IntegrityError):
        attestations.parse(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def test_the_same_answers_have_the_same_digest_and_none_have_none():
    assert attestations.of_answers(["two", "\ud83d"]) == attestations.of_answers(["two", "\ud83d"])
    assert attestations.of_answers(["two"]) != attestations.of_answers(["three"])
    assert attestations.of_answers([]) is None

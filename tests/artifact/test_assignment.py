"""The assignment document: read as it was written, or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.artifact import assignment
from slmops.artifact.assignment import Assignment
from slmops.errors import IntegrityError

HEX32 = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
HEX64 = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
MOMENTS = st.datetimes().map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20))
ASSIGNMENTS = st.builds(
    Assignment,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
    st.none() | HEX32,
    HEX64.map("sha256:{}".format),
    HEX64,
    st.integers(0, 2**53 - 1),
    MOMENTS,
    MOMENTS,
    st.none() | HEX32,
).filter(lambda said: said.valid_until >= said.issued)
STRANGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2),
    max_leaves=4,
)


@given(ASSIGNMENTS)
def test_an_assignment_is_read_as_it_was_written(said):
    assert assignment.parse(assignment.render(said)) == said


@given(ASSIGNMENTS, st.data(), STRANGE)
def test_whatever_stands_in_an_assignment_it_is_read_or_refused(said, data, strange):
    whole = json.loads(assignment.render(said))
    whole[data.draw(st.sampled_from(sorted(whole)))] = strange
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    try:
        found = assignment.parse(text.encode(errors="surrogatepass"))
    except IntegrityError:
        return
    assert assignment.render(found) == text.encode()


@given(st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_what_is_no_assignment_is_refused(data):
    with pytest.raises(IntegrityError):
        assignment.parse(data)


@given(ASSIGNMENTS, st.data())
def test_an_assignment_that_lacks_a_key_or_has_one_more_is_refused(said, data):
    whole = json.loads(assignment.render(said))
    left_out = data.draw(st.sampled_from(sorted(whole)))
    lacking = {key: value for key, value in whole.items() if key != left_out}

    for other in (lacking, {**whole, "root": True}):
        with pytest.raises(IntegrityError):
            assignment.parse(json.dumps(other, sort_keys=True, separators=(",", ":")).encode())


def test_an_assignment_that_ends_before_it_begins_is_refused():
    said = Assignment(
        "edge-1",
        None,
        "sha256:" + "0" * 64,
        "0" * 64,
        1,
        "2026-01-02T00:00:00Z",
        "2026-01-01T00:00:00Z",
        None,
    )

    with pytest.raises(IntegrityError, match="before it was issued"):
        assignment.parse(assignment.render(said))


@pytest.mark.parametrize("moment", ["2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "tomorrow", 5, None])
def test_a_moment_that_never_is_is_refused(moment):
    said = Assignment("e", None, "sha256:" + "0" * 64, "0" * 64, 1, moment, "9999-01-01T00:00:00Z", None)

    with pytest.raises(IntegrityError, match="issued"):
        assignment.parse(assignment.render(said))

"""A spool counted while it grows comes to what it comes to when it is read whole."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.telemetry.events import RequestFinished
from slmops.telemetry.spool import BLOCK, FILE, LEAST_BYTES, Spool, read
from slmops.telemetry.summary import Summary, summarise
from slmops.telemetry.sums import Sums

EVENT = RequestFinished(1.0, "demo:1.0.0", "sha256:00", 200, 7, 3, 0.1, 0.5)


def whole(folder, digest):
    return summarise(event for _, event in read(folder).events if event.digest == digest)


def same(one, other):
    assert replace(one, later_seconds=0.0) == replace(other, later_seconds=0.0)
    assert one.later_seconds == pytest.approx(other.later_seconds)


rounds = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["sha256:00", "sha256:11"]), st.floats(0.1, 9), st.integers(1, 700)),
        max_size=4,
    ),
    max_size=4,
)


@given(rounds)
@settings(max_examples=25, deadline=None)
def test_it_comes_to_the_same_however_often_it_was_asked(tmp_path_factory, rounds):
    folder = tmp_path_factory.mktemp("spool")
    spool, sums = Spool(folder), Sums(folder)
    for answered in rounds:
        for digest, seconds, times in answered:
            assert spool.extend([replace(EVENT, digest=digest, seconds=seconds)] * times)
        for digest in ("sha256:00", "sha256:11"):
            same(sums.of(digest), whole(folder, digest))
            same(Sums(folder).of(digest), whole(folder, digest))
    spool.close()


def test_blocks_that_went_are_counted_no_more(tmp_path):
    spool, sums = Spool(tmp_path, LEAST_BYTES), Sums(tmp_path)
    for number in range(20):
        assert spool.extend([replace(EVENT, prompt_tokens=number)] * 500)
        same(sums.of("sha256:00"), whole(tmp_path, "sha256:00"))
    assert read(tmp_path).dropped > BLOCK


def test_a_spool_that_was_begun_anew_is_counted_from_its_beginning(tmp_path):
    spool, sums = Spool(tmp_path), Sums(tmp_path)
    spool.extend([EVENT] * 2 * BLOCK)
    assert sums.of("sha256:00").requests == 2 * BLOCK
    spool.close()
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    assert sums.of("sha256:00") == Summary()
    spool.extend([EVENT] * 3)
    assert sums.of("sha256:00").requests == 3


def test_a_spool_that_is_not_there_comes_to_nothing(tmp_path):
    assert Sums(tmp_path / "missing").of("sha256:00") == Summary()

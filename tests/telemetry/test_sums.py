"""A spool counted while it grows comes to what it comes to when it is read whole."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.telemetry.events import RequestFinished
from slmops.telemetry.spool import Spool, read
from slmops.telemetry.summary import Summary, summarise
from slmops.telemetry.sums import Sums

EVENT = RequestFinished(1.0, "demo:1.0.0", "sha256:00", 200, 7, 3, 0.1, 0.5)


def whole(folder, digest):
    return summarise(event for event in read(folder).events if event.digest == digest)


def same(one, other):
    assert replace(one, later_seconds=0.0) == replace(other, later_seconds=0.0)
    assert one.later_seconds == pytest.approx(other.later_seconds)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from(["sha256:00", "sha256:11"]), st.floats(0.1, 9))), max_size=5)
)
def test_it_comes_to_the_same_however_often_it_was_asked(tmp_path_factory, rounds):
    folder = tmp_path_factory.mktemp("spool")
    spool, sums = Spool(folder, limit_bytes=4096), Sums(folder)
    for answered in rounds:
        for digest, seconds in answered:
            spool.append(replace(EVENT, digest=digest, seconds=seconds))
        for digest in ("sha256:00", "sha256:11"):
            same(sums.of(digest), whole(folder, digest))


def test_segments_that_went_are_counted_no_more(tmp_path):
    spool, sums = Spool(tmp_path, limit_bytes=4096), Sums(tmp_path)
    for number in range(200):
        spool.append(replace(EVENT, prompt_tokens=number))
        same(sums.of("sha256:00"), whole(tmp_path, "sha256:00"))
    assert read(tmp_path).dropped


def test_a_line_that_is_still_being_written_is_counted_once_it_is_whole(tmp_path):
    spool, sums = Spool(tmp_path), Sums(tmp_path)
    spool.append(EVENT)
    (segment,) = tmp_path.iterdir()
    line = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(line[:30])
    assert sums.of("sha256:00").requests == 1
    with segment.open("ab") as file:
        file.write(line[30:])
    assert sums.of("sha256:00").requests == 2


def test_lines_that_are_no_events_count_nothing(tmp_path):
    (tmp_path / "0000000001.jsonl").write_bytes(b"{}\nnot one\n\xff\n")
    assert Sums(tmp_path).of("sha256:00") == Summary()


def test_another_file_of_the_same_name_is_counted_from_its_beginning(tmp_path):
    sums, segment = Sums(tmp_path), tmp_path / "0000000001.jsonl"
    Spool(tmp_path).append(EVENT)
    assert sums.of("sha256:00").requests == 1
    (tmp_path / "fresh").write_bytes(segment.read_bytes() * 3)
    (tmp_path / "fresh").replace(segment)
    assert sums.of("sha256:00").requests == 3


def test_a_spool_that_is_not_there_comes_to_nothing(tmp_path):
    assert Sums(tmp_path / "missing").of("sha256:00") == Summary()


def test_a_segment_that_went_while_it_was_looked_for_is_not_missed(tmp_path):
    Spool(tmp_path).append(EVENT)
    (tmp_path / "0000000000.jsonl").symlink_to("gone")

    assert Sums(tmp_path).of("sha256:00").requests == 1
    assert read(tmp_path).events == [EVENT]

"""The bounded ring of events on disk."""

import pytest

from slmops.telemetry.events import RequestFinished, render
from slmops.telemetry.spool import Spool, read


def event(number):
    return RequestFinished(float(number), "demo:1.0.0", "sha256:00", 200, number, 1, 0.1, 0.2)


def numbers(folder):
    return [found.prompt_tokens for found in read(folder).events]


def test_what_is_spooled_is_read_in_order(tmp_path):
    spool = Spool(tmp_path / "spool")
    for number in range(50):
        spool.append(event(number))
    assert read(tmp_path / "spool").events == [event(number) for number in range(50)]


def test_a_spool_that_was_never_written_holds_nothing(tmp_path):
    found = read(tmp_path / "missing")
    assert (found.events, found.dropped, found.unreadable) == ([], 0, 0)


@pytest.mark.parametrize("limit", [4096, 10_000, 65_536])
def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path, limit):
    spool = Spool(tmp_path, limit_bytes=limit)
    for number in range(1000):
        spool.append(event(number))
        assert sum(segment.stat().st_size for segment in tmp_path.glob("*.jsonl")) <= limit
    kept = numbers(tmp_path)
    assert kept == list(range(1000 - len(kept), 1000))
    assert read(tmp_path).dropped == 1000 - len(kept)
    assert len(kept) * len(render(event(999))) > limit * 3 // 4


def test_a_spool_opened_again_goes_on_where_it_was(tmp_path):
    for number in range(10):
        Spool(tmp_path).append(event(number))
    assert numbers(tmp_path) == list(range(10))
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_a_line_torn_by_a_power_cut_costs_that_line_alone(tmp_path):
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append(event(number))
    (segment,) = tmp_path.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes()[:-20])
    Spool(tmp_path).append(event(3))
    assert numbers(tmp_path) == [0, 1, 3]
    assert read(tmp_path).unreadable == 1


def test_two_daemons_may_write_to_one_spool(tmp_path):
    draining, starting = Spool(tmp_path), Spool(tmp_path)
    for number in range(20):
        (draining if number % 3 else starting).append(event(number))
    assert numbers(tmp_path) == list(range(20))


def test_a_torn_count_of_dropped_lines_does_not_stop_the_spool(tmp_path):
    (tmp_path / "dropped").write_bytes(b"")
    spool = Spool(tmp_path, limit_bytes=4096)
    for number in range(100):
        spool.append(event(number))
    assert read(tmp_path).dropped == 100 - len(numbers(tmp_path))

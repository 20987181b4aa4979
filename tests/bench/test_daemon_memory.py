"""What the daemon takes of memory, against what was predicted from the shape of its model."""

import footprint as bench
import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


@pytest.mark.parametrize("case", bench.QUICK, ids=lambda case: f"{case[0]} {case[1]}")
def test_the_daemon_needs_at_most_fifteen_percent_more_than_predicted(case, room):
    weighed = bench.weigh(case, room)

    assert weighed["ratio"] >= bench.LOWEST
    assert weighed["ratio"] <= 1.35


def test_pages_that_were_not_touched_are_told_from_those_that_were():
    smaps = """\
7f00-7f10 r--s 00000000 fe:00 11 /models/a Q4_0/model.gguf
Rss:                 100 kB
Referenced:           30 kB
7f10-7f20 rw-p 00000000 00:00 0
Rss:                 500 kB
Referenced:            0 kB
"""
    assert bench.untouched(smaps, "/a Q4_0/model.") == 70 * 1024

"""Memory that was zeroed and is not used is given back; what is in use stays as it is."""

from __future__ import annotations

import mmap
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon import give_back

SIZE = 32 << 20


def spans(most=60):
    points = st.lists(st.integers(0, most), unique=True, max_size=12).map(sorted)
    return points.map(lambda found: list(zip(found[::2], found[1::2], strict=False)))


def points(found):
    return {at for start, end in found for at in range(start, end)}


@given(spans(), spans())
def test_what_is_left_of_spans_is_what_is_in_no_other(ours, others):
    left = list(give_back.without(ours, others))

    assert points(left) == points(ours) - points(others)
    assert all(start < end for start, end in left)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE


def test_zeros_are_given_back_and_everything_is_read_as_before():
    before = resident()
    with give_back.making():
        made = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.write(bytes(SIZE))
        made[SIZE // 2 : SIZE // 2 + 5] = b"words"
        full = resident()
    after = resident()

    assert full - before > SIZE * 0.9
    assert after - before < SIZE * 0.3
    assert made[:] == bytes(SIZE // 2) + b"words" + bytes(SIZE // 2 - 5)
    made.close()


def test_what_was_there_before_is_left_alone():
    made = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.write(bytes(SIZE))
    before = resident()
    with give_back.making():
        pass

    assert before - resident() < SIZE * 0.5
    made.close()

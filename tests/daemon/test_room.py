"""Which plan memory allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.room import MIB, Memory, estimate, plan, promise, why_not

sizes = st.integers(0, 100)
residents = st.dictionaries(st.sampled_from(["current", "previous", "spare"]), sizes)
ORDER = ["refuse", "sequential", "parallel"]


def memory(limit, used, there, available=None):
    return Memory(limit=limit, used=used, available=available, residents=there)


@given(sizes, sizes, residents, sizes)
def test_what_a_plan_lets_in_fits_once_those_that_must_leave_have_left(limit, used, there, needed):
    made = plan(memory(limit, used, there), "current", needed)
    gained = sum(there[digest] for digest in made.leave)
    if made.kind == "refuse":
        assert needed > limit - used + sum(there.values())
        assert not made.leave
    else:
        assert needed <= limit - used + gained


@given(sizes, sizes, residents, sizes, sizes)
def test_more_room_never_makes_a_worse_plan(limit, used, there, needed, more):
    before = plan(memory(limit, used, there), "current", needed).kind
    after = plan(memory(limit + more, used, there), "current", needed).kind
    assert ORDER.index(after) >= ORDER.index(before)


@given(sizes, sizes, residents, sizes)
def test_current_leaves_only_in_a_sequential_plan_and_last(limit, used, there, needed):
    made = plan(memory(limit, used, there), "current", needed)
    assert ("current" in made.leave) == (made.kind == "sequential")
    assert made.kind != "sequential" or made.leave[-1] == "current"


def test_the_machine_bounds_as_the_limit_does():
    assert plan(memory(100, 10, {}, available=20), None, 30).kind == "refuse"
    assert plan(memory(100, 80, {}, available=90), None, 30).kind == "refuse"
    assert plan(memory(100, 10, {}, available=90), None, 30).kind == "parallel"


def test_without_a_known_limit_everything_fits():
    assert plan(Memory(), "current", 1 << 50).kind == "parallel"


def test_what_serves_nobody_leaves_before_anybody_waits():
    there = {"current": 40, "previous": 40}
    assert plan(memory(100, 90, there), "current", 30).leave == ("previous",)
    assert plan(memory(100, 90, there), "current", 60).leave == ("previous", "current")
    assert plan(memory(100, 90, there), "current", 95).kind == "refuse"


@pytest.mark.parametrize(("measured", "needed"), [(0, 100), (90, 100), (130, 130)])
def test_an_estimate_is_the_promise_unless_more_was_measured(measured, needed):
    assert estimate(100, measured) == needed


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6) | st.none())
def test_a_larger_pool_needs_its_part_more(cache, context, pool):
    needed = promise(10**7, cache, context, pool)
    assert needed == 10**7 if (pool or 0) <= context else needed >= 10**7
    assert promise(10**7, cache, context, 3 * context) == 10**7 + 3 * cache


@given(sizes | st.none(), sizes, sizes | st.none(), sizes, sizes)
def test_the_first_version_comes_in_as_a_later_one_would_and_one_that_served_where_it_could(
    limit, used, available, beyond, needed
):
    total = None if available is None else available + beyond
    there = Memory(limit, used, available, {}, total)
    comes_in = needed <= min(limit if limit is not None else needed, total if total is not None else needed)
    assert (why_not(there, needed, served=True) == "") == comes_in
    assert (why_not(there, needed, served=False) == "") == (
        comes_in and plan(there, None, needed).kind == "parallel"
    )


def test_why_the_first_version_cannot_come_in_is_told_in_numbers():
    there = Memory(None, 0, 300 * MIB, {}, 800 * MIB)
    assert why_not(there, 500 * MIB, served=False).startswith("it needs 500 MiB, 300 MiB are free; no limit")
    assert "and may have 800 MiB at most" in why_not(there, 900 * MIB, served=True)


def test_a_plan_tells_its_numbers():
    made = plan(memory(100 * MIB, 60 * MIB, {}), None, 50 * MIB)
    assert made.why == "it needs 50 MiB, 40 MiB are free"


def test_where_the_memory_is_is_told_apart():
    there = Memory(300 * MIB, 200 * MIB, None, {"a": 100 * MIB, "b": 60 * MIB})
    assert there.told == ("the limit is 300 MiB, the router takes 40 MiB, 2 resident versions take 160 MiB")

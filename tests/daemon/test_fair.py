from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.fair import Line

keys = st.sampled_from("abc")
costs = st.floats(0.1, 100)


def everyone(_item: object) -> bool:
    return True


@given(st.lists(st.tuples(keys, costs)))
def test_within_a_key_the_order_is_that_of_arrival(asked):
    line = Line()
    for number, (key, cost) in enumerate(asked):
        line.join(key, cost, (key, number))

    served = [line.take(everyone) for _ in asked]

    assert line.take(everyone) is None
    for key in "abc":
        assert [item for item in served if item[0] == key] == [
            (key, number) for number, (said, _) in enumerate(asked) if said == key
        ]


@given(st.lists(costs, min_size=20, max_size=20), st.lists(costs, min_size=20, max_size=20))
def test_of_two_keys_that_both_wait_neither_gets_ahead_by_more_than_the_dearest_of_each(ones, others):
    line = Line()
    for key, found in (("one", ones), ("other", others)):
        for cost in found:
            line.join(key, cost, (key, cost))

    served, left = Counter(), Counter(one=len(ones), other=len(others))
    while all(left.values()):
        key, cost = line.take(everyone)
        served[key] += cost
        left[key] -= 1
        if all(left.values()):
            assert abs(served["one"] - served["other"]) <= max(ones) + max(others) + 1e-6


@given(st.lists(st.tuples(keys, costs), min_size=1), st.data())
def test_who_left_and_who_cannot_be_served_is_not_next(asked, data):
    line = Line()
    items = [[key] for key, _ in asked]
    for item, (key, cost) in zip(items, asked, strict=True):
        line.join(key, cost, item)
    gone = data.draw(st.sampled_from(items))
    line.leave(gone)

    able = [item for item in items if item is not gone and item[0] != "a"]
    served = [line.take(lambda item: item[0] != "a") for _ in able]

    assert all(item is not gone and item[0] != "a" for item in served)
    assert line.take(lambda item: item[0] != "a") is None
    assert len(line) == sum(item is not gone and item[0] == "a" for item in items)


def test_who_was_away_has_saved_nothing_up():
    line = Line()
    for _ in range(10):
        line.join("busy", 10, "busy")
        line.take(everyone)
    for _ in range(3):
        line.join("busy", 10, "busy")
        line.join("back", 10, "back")

    assert [line.take(everyone) for _ in range(4)].count("back") == 2

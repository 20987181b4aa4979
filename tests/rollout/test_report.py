import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from _course import BEGAN, course
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import DocumentError
from slmops.rollout import assignment, machine
from slmops.rollout.history import Entry, Happening, Line
from slmops.rollout.report import parse, render, report, state_in
from slmops.rollout.tally import Sort, sort_of, tally

STATES = [state.value for state in assignment.State]
MOMENTS = st.floats(BEGAN, BEGAN + 1e6)
WORDS = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.lists(st.sampled_from([f"edge-{number}" for number in range(9)]), unique=True, max_size=6)


@st.composite
def histories(draw):
    """What a history may hold, clocks that were put back and words of other versions included."""
    waves, names = draw(st.integers(0, 3)), draw(NAMES)
    entry = Entry(
        7, draw(WORDS), draw(WORDS), "sha256:00", draw(st.sampled_from([s.value for s in machine.State])),
        draw(st.integers(0, waves)), waves, BEGAN, draw(MOMENTS), options={"strategy": draw(JSON)},
    )  # fmt: skip
    lines = [
        Line(name, draw(st.integers(0, waves)), draw(st.sampled_from(STATES)), draw(WORDS),
             draw(st.dictionaries(st.sampled_from(["sent", "failed", "log", "measured", "code"]), JSON)),
             draw(MOMENTS))
        for name in names
    ]  # fmt: skip
    said = st.sampled_from([*STATES, "lost the link broke", "rolling", "ada asks: pause", "?"])
    events = [
        Happening(number, draw(MOMENTS), draw(st.sampled_from([None, *names])), draw(said))
        for number in range(draw(st.integers(0, 9)))
    ]
    return entry, lines, events


@given(histories())
def test_what_is_read_back_is_what_was_written(history):
    said = report(*history, made=BEGAN + 5)

    assert parse(render(said)) == json.loads(json.dumps(said))


@given(histories())
def test_no_span_is_negative_and_each_begins_where_the_one_before_ended(history):
    said = report(*history, made=BEGAN + 5)

    for course_ in [said["moves"], *(device["course"] for device in said["devices"])]:
        for before, after in pairwise(course_):
            assert before["seconds"] >= 0
            assert math.isclose(before["at"] + before["seconds"], after["at"], abs_tol=1e-3)
    assert said["rollout"]["seconds"] >= 0
    assert all(device["seconds"] is None or device["seconds"] >= 0 for device in said["devices"])


@given(histories())
def test_counts_add_up_to_the_devices(history):
    said = report(*history, made=BEGAN + 5)

    for counts in [said["counts"], *(wave["counts"] for wave in said["waves"])]:
        assert sum(counts[sort.value] for sort in Sort) == counts["devices"]
        assert sum(counts["states"].values()) == counts["devices"]
    assert said["counts"]["devices"] == len(history[1])


def test_every_state_is_of_one_sort_and_none_that_is_not_known_is_good():
    for state in assignment.State:
        assert (sort_of(state.value) is Sort.GOOD) == (state in assignment.GOOD)
        assert (sort_of(state.value) is Sort.BAD) == (state in assignment.BAD)
    assert sort_of("of another version") is Sort.UNKNOWN
    assert tally(["committed", "waiting", "?"])[Sort.GOOD] == 1


def test_a_state_is_found_at_the_beginning_of_what_was_said():
    assert [state_in(what) for what in ("went back 1 of 5 failed", "lost", "stagedive", "")] == [
        "went back", "lost", None, None,
    ]  # fmt: skip


def test_a_rollout_that_went_back_says_which_wave_failed_and_why():
    made = course(30, sick=(20,), lost=(22,))

    said = report(made.entry, made.lines, made.events, made=BEGAN + 9999, audit="sha256:cd")

    assert [wave["verdict"] for wave in said["waves"]] == ["pass", "pass", "pass", "fail"]
    assert (said["counts"]["good"], said["counts"]["bad"], said["counts"]["left out"]) == (15, 1, 13)
    sick = next(device for device in said["devices"] if device["device"] == "pump-0020")
    assert [span["state"] for span in sick["course"]] == [
        "waiting",
        "sending",
        "staged",
        "trial",
        "went back",
    ]
    assert (sick["state"], sick["code"], sick["failed"][0]["expected"]) == ("went back", "GATE_QUALITY", "4")
    assert (said["audit"], said["rollout"]["ended"]) == ("sha256:cd", True)
    assert said["rollout"]["until"] == made.entry.changed


@pytest.mark.parametrize(
    ("state", "wave", "states", "verdicts"),
    [
        ("aborted", 0, ["went back", "canceled", "canceled"], ["fail", None, None]),
        ("paused", 1, ["committed", "failed", "waiting"], ["pass", "fail", None]),
        ("paused", 1, ["committed", "committed", "waiting"], ["pass", "inconclusive", None]),
        ("aborted", 0, ["canceled", "canceled", "canceled"], [None, None, None]),
        ("went back", 1, ["returned", "returned", "canceled"], ["taken back", "taken back", None]),
        ("went back", 1, ["returned", "went back", "waiting"], ["taken back", "fail", None]),
        ("succeeded", 3, ["committed", "already", "committed"], ["pass", "pass", "pass"]),
    ],
)
def test_a_wave_has_failed_was_taken_back_or_never_began(state, wave, states, verdicts):
    made = course(3)
    entry = replace(made.entry, state=state, wave=wave, waves=3, options={})
    lines = [
        replace(line, wave=1 + place, state=where)
        for place, (line, where) in enumerate(zip(made.lines, states, strict=True))
    ]

    said = report(entry, lines, [], made=BEGAN)

    assert [each["verdict"] for each in said["waves"]] == verdicts
    assert all(each["began"] is None for each in said["waves"] if each["verdict"] is None)


def test_failures_that_a_wave_may_have_make_no_fail():
    made = course(3)
    entry = replace(made.entry, state="aborted", wave=0, waves=1, options={"waves": [{"max_failures": 1}]})
    lines = [replace(line, wave=1, state="failed" if not place else "committed")
             for place, line in enumerate(made.lines)]  # fmt: skip

    assert report(entry, lines, [], made=BEGAN)["waves"][0]["verdict"] == "inconclusive"


def test_a_rollout_under_way_is_told_as_far_as_it_came():
    made = course(30, until=107)

    said = report(made.entry, made.lines, made.events, made=BEGAN + 107)

    assert [wave["verdict"] for wave in said["waves"]] == ["pass", "pass", None, None]
    assert said["waves"][2]["ended"] is None
    assert (said["rollout"]["ended"], said["rollout"]["until"]) == (False, BEGAN + 107)
    assert said["moves"][-1]["state"] == "rolling"


def test_what_operators_asked_stands_apart_from_what_the_rollout_did():
    made = course(3)
    asked = Happening(999, BEGAN + 2, None, "ada@workshop asks: pause")

    said = report(made.entry, made.lines, [*made.events, asked], made=BEGAN)

    assert said["asked"] == [{"at": BEGAN + 2, "what": "ada@workshop asks: pause"}]
    assert all(" " not in move["state"] for move in said["moves"])


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"type": "card"}', b'{"type": "slmops-rollout-report", "version": 9}']
)
def test_what_is_no_report_is_turned_down(data):
    with pytest.raises(DocumentError):
        parse(data)

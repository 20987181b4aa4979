from itertools import pairwise

import pytest
from _course import BEGAN, course
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.rollout.report import report
from slmops.rollout.timeline import TOLD_APART, elapsed, lay_out


def said(*args, **kwargs):
    made = course(*args, **kwargs)
    return report(made.entry, made.lines, made.events, made=made.events[-1].at)


@settings(max_examples=25)
@given(
    st.integers(1, 60),
    st.integers(0, 59),
    st.integers(0, 400),
    st.integers(0, 9),
    st.sampled_from([360, 880]),
)
def test_all_that_is_drawn_lies_inside_and_every_device_has_one_row(devices, sick, until, seed, width):
    bad = (sick,) if sick < devices else ()

    drawn = lay_out(said(devices, sick=bad, until=until, seed=seed), width=width)

    rows = [row for wave in drawn.waves for row in wave.rows]
    assert sorted(row.device for row in rows) == [f"pump-{number:04d}" for number in range(devices)]
    for row in rows:
        spans = sorted([*row.spans, *row.ends], key=lambda span: span.x)
        assert all(one.x + one.width <= other.x + 0.2 for one, other in pairwise(spans))
        assert all(span.x >= 0 and span.x + span.width <= width + 0.2 for span in spans)
        assert 0 < row.y < drawn.height
    for band in [*drawn.stops, *(band for wave in drawn.waves for band in wave.bands)]:
        assert drawn.frame.left - 0.2 <= band.x <= band.x + band.width <= drawn.frame.right + 0.2
    assert all(one.at < other.at for one, other in pairwise(drawn.ticks))


def test_of_more_devices_than_can_be_told_apart_their_number_is_drawn():
    drawn = lay_out(said(TOLD_APART + 1, sick=(150,)), width=880)

    assert not any(wave.rows for wave in drawn.waves)
    for wave in drawn.waves:
        highest = min(y for area in wave.areas for _, y in area.corners)
        lowest = max(y for area in wave.areas for _, y in area.corners)
        assert (highest, lowest) == (wave.box.top, wave.box.bottom)
        assert all(wave.box.top <= y <= wave.box.bottom for area in wave.areas for _, y in area.corners)
    assert [len(wave.marks) for wave in drawn.waves] == [0, 0, 0, 1]


def test_a_soak_stands_behind_the_wave_that_soaked():
    drawn = lay_out(said(30), width=880)

    assert [[band.hue for band in wave.bands] for wave in drawn.waves] == [["soak"]] * 4


def test_a_rollout_over_nobody_is_drawn_empty():
    made = course(1)
    account = report(made.entry, [], [], made=BEGAN)

    assert lay_out(account, width=360).waves == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.4 s"), (9.97, "10 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
     (273600, "3 d 4 h")],
)  # fmt: skip
def test_spans_are_written_for_people(seconds, text):
    assert elapsed(seconds) == text

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.plot import LEAST, Box, Mark, front, lay_out, raised

MIB = 1 << 20
WIDE = {"width": 880, "height": 440}
NARROW = {"width": 360, "height": 420}

sizes = st.integers(1, 1 << 44)
losses = st.floats(0, 1e6) | st.floats(1e-7, 10) | st.sampled_from([0.0, 1e-12, LEAST, 0.01])
marks = st.builds(
    Mark,
    text=st.text("ABCDEF_0123456789", min_size=1, max_size=12),
    bytes=sizes | st.integers(8 * MIB, 40 * MIB),
    loss=st.none() | losses,
    error=st.floats(0, 10) | st.just(math.nan),
    first=st.booleans(),
)
figures = st.builds(
    lambda marks, levels, limits, size: (
        marks,
        lay_out(marks, [("gate", loss) for loss in levels], [("at most", size) for size in limits], **size),
    ),
    st.lists(marks, min_size=1, max_size=25),
    st.lists(losses, max_size=2),
    st.lists(sizes, max_size=2),
    st.sampled_from([WIDE, NARROW]),
)


def around(mark):
    """Return the box of a mark without its error bar, less a hair for rounding."""
    return Box(mark.x - 5.9, mark.y - 5.9, mark.x + 5.9, mark.y + 5.9)


@given(figures)
def test_every_mark_and_its_error_bar_lie_in_the_frame(drawn):
    _, figure = drawn
    frame = figure.frame

    for mark in figure.marks:
        assert frame.left <= mark.x <= frame.right
        assert frame.top <= mark.top <= mark.y <= mark.bottom <= frame.bottom


@given(figures)
def test_a_larger_file_never_lies_left_nor_a_larger_loss_below(drawn):
    asked, figure = drawn

    for (one, here), (other, there) in combinations(zip(asked, figure.marks, strict=True), 2):
        assert (here.x <= there.x) if one.bytes <= other.bytes else (there.x <= here.x)
        if one.loss is not None and other.loss is not None:
            assert (here.y >= there.y) if one.loss <= other.loss else (there.y >= here.y)


@given(figures)
def test_ticks_lie_on_their_axis_and_rise_and_say_different_things(drawn):
    _, figure = drawn
    frame = figure.frame
    across, up = [tick.at for tick in figure.sizes], [tick.at for tick in figure.losses]
    said = [tick.text for tick in figure.sizes]

    assert said
    assert sorted(set(said), key=said.index) == said
    assert all(frame.left <= place <= frame.right for place in across)
    assert all(frame.top <= place <= frame.bottom for place in up)
    assert across == sorted(across)
    assert up == sorted(up, reverse=True)
    assert len([tick for tick in figure.losses if tick.text]) >= 2


@given(figures)
def test_labels_meet_neither_each_other_nor_a_mark_nor_the_frame(drawn):
    _, figure = drawn
    labels = [mark.label.box for mark in figure.marks if mark.label]

    assert all(figure.frame.holds(label) for label in labels)
    assert not any(one.meets(other) for one, other in combinations(labels, 2))
    assert not any(label.meets(around(mark)) for label in labels for mark in figure.marks)


@given(figures)
def test_the_words_of_lines_lie_in_the_figure(drawn):
    _, figure = drawn
    whole = Box(0, 0, figure.width, figure.height)

    assert all(whole.holds(line.label.box) for line in (*figure.levels, *figure.limits))
    assert all(figure.frame.top <= level.y <= figure.frame.bottom for level in figure.levels)


@given(st.lists(marks, max_size=25))
def test_nothing_is_smaller_and_closer_than_what_is_on_the_front(given_marks):
    best = front(given_marks)
    measured = [mark for mark in given_marks if mark.loss is not None]

    for mark in best:
        assert not any(other.bytes <= mark.bytes and other.loss < mark.loss for other in measured)
    for mark in measured:
        assert any(other.bytes <= mark.bytes and other.loss <= mark.loss for other in best)
    for smaller, larger in pairwise(best):
        assert smaller.bytes < larger.bytes
        assert smaller.loss > larger.loss


def test_one_model_with_no_loss_at_all_is_drawn_at_the_least_there_is():
    figure = lay_out([Mark("F32", 84 * MIB, 0.0, first=True)], [], [], **WIDE)
    mark = figure.marks[0]

    assert mark.under
    assert mark.label
    assert [tick.at for tick in figure.losses if tick.text.startswith("≤")] == [mark.y]


def test_what_was_never_measured_stands_on_the_axis_of_sizes():
    figure = lay_out([Mark("Q8_0", 22 * MIB, 0.001), Mark("F16", 42 * MIB, None)], [], [], **WIDE)

    assert figure.marks[1].y == figure.frame.bottom
    assert not figure.marks[1].measured
    assert figure.front == ((figure.marks[0].x, figure.marks[0].y),)


def test_the_front_goes_down_in_stairs():
    figure = lay_out([Mark("Q8_0", 22 * MIB, 0.001), Mark("Q4_0", 12 * MIB, 0.01)], [], [], **WIDE)
    large, small = figure.marks

    assert figure.front == ((small.x, small.y), (large.x, small.y), (large.x, large.y))


def test_a_limit_far_from_every_file_is_said_and_does_not_stretch_the_axis():
    files = [Mark("Q8_0", 22 * MIB, 0.001), Mark("Q4_0", 12 * MIB, 0.01)]
    far = lay_out(files, [], [("gguf", 6000 * MIB), ("onnx", MIB)], **WIDE)

    assert [limit.x for limit in far.limits] == [None, None]
    assert [limit.label.text for limit in far.limits] == ["gguf →", "← onnx"]
    assert far.sizes == lay_out(files, [], [], **WIDE).sizes


def test_a_limit_near_the_files_is_a_line_among_them():
    files = [Mark("Q8_0", 22 * MIB, 0.001), Mark("Q4_0", 12 * MIB, 0.01)]
    figure = lay_out(files, [], [("gguf", 20 * MIB)], **WIDE)

    assert figure.marks[1].x < figure.limits[0].x < figure.marks[0].x


def test_the_sizes_on_the_axis_are_round():
    near = lay_out([Mark("a", 11 * MIB, 0.1), Mark("b", 22 * MIB, 0.1)], [], [], **NARROW)
    wide = lay_out([Mark("a", 9 * MIB, 0.1), Mark("b", 80 * MIB, 0.1)], [], [], **WIDE)

    assert [tick.text for tick in near.sizes] == ["10 MiB", "15 MiB", "20 MiB"]
    assert [tick.text for tick in wide.sizes] == [
        "8 MiB", "12 MiB", "16 MiB", "24 MiB", "32 MiB", "48 MiB", "64 MiB",
    ]  # fmt: skip


def test_the_mark_that_goes_first_has_its_label_among_many():
    crowd = [Mark(f"Q{i}", (100 + i) * MIB, 0.01 - i / 10_000, first=i == 11) for i in range(20)]

    assert lay_out(crowd, [("gate", 0.03)], [], **NARROW).marks[11].label


@pytest.mark.parametrize(("power", "said"), [(-5, "10⁻⁵"), (-12, "10⁻¹²"), (4, "10⁴")])
def test_powers_of_ten_are_written_as_in_print(power, said):
    assert raised(power) == said

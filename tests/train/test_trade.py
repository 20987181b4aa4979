import math

from hypothesis import given
from hypothesis import strategies as st

from slmops.train.trade import Seen, lay_out_amounts, lay_out_losses

SIZES = {"width": 330, "height": 240}
SHARES = st.none() | st.floats(0, 1)


@st.composite
def shares(draw):
    amounts = draw(st.lists(st.tuples(st.integers(1, 1 << 40), SHARES), min_size=1, max_size=6))
    wide = draw(st.sampled_from([math.nan, 0.0, 0.1]))
    return [
        Seen(
            f"step {place}",
            nbytes,
            amount,
            math.nan if amount is None else max(amount - wide, 0.0),
            math.nan if amount is None else min(amount + wide, 1.0),
            last=place == len(amounts) - 1,
        )
        for place, (nbytes, amount) in enumerate(amounts)
    ]


def inside(figure):
    frame = figure.frame
    for mark in figure.marks:
        assert frame.left <= mark.x <= frame.right
        assert frame.top <= mark.top <= mark.y <= mark.bottom <= frame.bottom
        if mark.label:
            box = mark.label.box
            assert box.left >= 0
            assert box.right <= figure.width
            assert box.top >= 0
    assert all(frame.top <= tick.at <= frame.bottom for tick in figure.losses)
    assert len({tick.text for tick in figure.losses}) == len(figure.losses) >= 1


@given(shares())
def test_every_step_has_a_mark_inside_the_frame_and_its_interval_with_it(seen):
    figure = lay_out_amounts(seen, shares=True, **SIZES)

    inside(figure)
    assert len(figure.marks) == len(seen)
    assert [mark.measured for mark in figure.marks] == [one.amount is not None for one in seen]


@given(shares())
def test_a_larger_share_never_lies_below_a_lesser(seen):
    figure = lay_out_amounts(seen, shares=True, **SIZES)
    told = [(one.amount, -mark.y) for one, mark in zip(seen, figure.marks, strict=True) if mark.measured]

    assert [y for _, y in sorted(told)] == sorted(y for _, y in told)


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=5))
def test_amounts_that_are_no_shares_lie_inside_too(amounts):
    seen = [Seen(f"step {place}", 1000 * (place + 1), amount) for place, amount in enumerate(amounts)]

    inside(lay_out_amounts(seen, shares=False, **SIZES))


def test_labels_meet_neither_each_other_nor_a_mark():
    seen = [
        Seen("teacher", 2_600_000, 0.71, 0.65, 0.77),
        Seen("pruned", 1_000_000, 0.55, 0.48, 0.62),
        Seen("distilled", 1_000_000, 0.68, 0.61, 0.74),
        Seen("gguf Q4_K_M", 360_000, 0.66, 0.6, 0.73, last=True),
    ]
    labels = [mark.label for mark in lay_out_amounts(seen, shares=True, **SIZES).marks]

    assert [label.text for label in labels] == [one.text for one in seen]
    boxes = [label.box for label in labels]
    assert not any(one.meets(other) for one in boxes for other in boxes if one is not other)


def test_no_loss_at_all_stands_on_the_axis_of_sizes():
    seen = [Seen("teacher", 2_600_000, 0.0), Seen("student", 900_000, 0.1, 0.08, 0.12, last=True)]
    teacher, student = lay_out_losses(seen, **SIZES).marks

    assert (teacher.measured, student.measured) == (False, True)
    assert student.top < student.y < student.bottom
    assert student.x < teacher.x

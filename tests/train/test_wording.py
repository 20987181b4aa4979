import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.train.wording import UNKNOWN, counted, known, number, share, short, size, span, whole

ANYTHING = st.none() | st.booleans() | st.text() | st.floats() | st.integers() | st.lists(st.integers())


@given(ANYTHING)
def test_whatever_stands_for_a_figure_is_written(value):
    for form in (short, counted, whole, share, size, span):
        assert (form(value) == UNKNOWN) == (known(value) is None)
    assert math.isnan(number(value)) == (known(value) is None)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (short(0.01234), "0.0123"),
        (short(1234), "1230"),
        (short(0.000026, 2), "2.6·10⁻⁵"),
        (counted(0), "0"),
        (counted(8192), "8,192"),
        (counted(350_123), "350\u00a0k"),
        (counted(999_990), "1\u00a0M"),
        (counted(2_048_000), "2.05\u00a0M"),
        (counted(3e12), "3000\u00a0B"),
        (whole(656_384), "656,384"),
        (share(0.61), "61.0%"),
        (size(2_621_440), "2.5 MiB"),
        (span(0.52), "0.52\u00a0s"),
        (span(45.2), "45\u00a0s"),
        (span(200), "3\u00a0min 20\u00a0s"),
        (span(7500), "2\u00a0h 5\u00a0min"),
        (short(math.nan), UNKNOWN),
    ],
)
def test_figures_are_written_as_people_read_them(written, said):
    assert written == said

"""The log of a run."""

from hypothesis import given
from hypothesis import strategies as st

from slmops.train.curve import Curve, Point, Validation, line, read

numbers = st.floats(allow_nan=False, allow_infinity=False)
made = st.dictionaries(st.text(max_size=9), numbers, max_size=3)
counts = st.integers(0, 10**12)
points = st.builds(
    Point, step=counts, steps=counts, tokens=counts, loss=numbers, rate=numbers, gradient=numbers,
    tokens_per_second=numbers, seconds=numbers, seconds_left=numbers, validation=numbers, parts=made,
)  # fmt: skip
validations = st.builds(Validation, step=counts, loss=numbers, parts=made)


@given(st.lists(points | validations, max_size=6))
def test_what_is_written_as_lines_reads_back(entries):
    found = read("".join(map(line, entries)).split("\n")[:-1])

    assert found == Curve(
        tuple(entry for entry in entries if isinstance(entry, Point)),
        tuple(entry for entry in entries if isinstance(entry, Validation)),
    )

"""Tables on terminals of every width."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from slmops.cli.render import table

HEADS = ("device", "state", "empty", "remark")
LONG = "it failed here three times, the last time: 12 of 16 golden prompts failed"
ROWS = [("edge-1", "went back", None, LONG), ("edge-2", "committed", "", None)]


def printed(width, heads=HEADS, rows=ROWS):
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        table(heads, rows, console)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_table_that_fits_is_printed_as_it_is():
    lines = printed(120)

    assert lines[0].split() == list(HEADS)
    assert lines[1].endswith(LONG)


def test_where_it_is_narrow_empty_columns_go_and_the_last_one_is_folded():
    lines = printed(60)

    assert lines[0].split() == ["device", "state", "remark"]
    assert lines[2] == " " * 19 + "time: 12 of 16 golden prompts failed"
    assert len(lines) == 4


def test_a_long_name_is_folded_at_words_before_anything_is_stacked():
    rows = [("7", "back from home:1.0.0, home:1.0.1", "ada"), ("6", "home:1.0.0", "ada")]

    lines = printed(32, ("number", "release", "who"), rows)

    assert lines[0].split() == ["number", "release", "who"]
    assert lines[2].split() == ["home:1.0.0,"]
    assert len(lines) == 5


def test_words_that_nothing_is_left_for_stand_beneath_their_row():
    lines = printed(24)

    assert lines[0].split() == ["device", "state"]
    assert lines[2] == "  it failed here three"
    assert lines[-1].split() == ["edge-2", "committed"]


def test_only_what_cannot_be_a_table_is_stacked():
    assert printed(12)[:2] == ["edge-1", "  state   went back"]


@pytest.mark.parametrize("rows", [[], [("a", "b", "c", "d")]])
def test_a_narrow_table_of_little_is_printed(rows):
    assert printed(40, rows=rows)[0].split() == list(HEADS)


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=60)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), max_size=4), st.integers(10, 200))
def test_nothing_that_was_to_be_said_is_lost(rows, width):
    text = "".join("".join(printed(width, rows=rows)).split())

    for row in rows:
        for value in row[:1]:
            assert set(value.replace(" ", "")) <= set(text)
    assert len(text) >= sum(len("".join(value.split())) for row in rows for value in row)

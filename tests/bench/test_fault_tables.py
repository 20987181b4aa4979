"""The tables of the fault campaign miss nothing, and what `docs/faults.md` names is there."""

import re
from itertools import product
from pathlib import Path

import _fault_deaths
import _fault_kills
import _fault_matrix
import pytest

from slmops.rollout import assignment, machine

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/faults.md"
ROWS = [*(f"R{number}" for number in range(1, 47)), *(f"S{number}" for number in range(1, 21))]


def test_every_verb_that_a_state_asks_is_broken_in_every_way_at_every_point():
    points = set(product(_fault_matrix.KINDS, _fault_matrix.POINTS))

    for state, verbs in assignment.VERBS.items():
        for verb in verbs:
            assert {
                (c.do, c.at) for c in _fault_matrix.cells() if (c.state, c.verb) == (state, verb)
            } == points


def test_every_cell_has_its_line_and_no_line_is_without_a_cell():
    assert {(cell.verb, cell.do, cell.at) for cell in _fault_matrix.cells()} == set(_fault_matrix.LAWFUL)


def test_a_line_that_names_more_than_one_outcome_says_why():
    for lawful in _fault_matrix.LAWFUL.values():
        assert bool(lawful.why) == (len(lawful.ends) > 1 or len(lawful.journals) > 1)
        assert lawful.ends <= assignment.ENDS


def test_the_operator_dies_at_every_state_or_a_reason_is_given():
    played, spared = set(_fault_deaths.PLAYED), set(_fault_deaths.NOT_PLAYED)

    assert played | spared == {*assignment.State, *machine.State}
    assert not played & spared
    assert {death.state for death in _fault_deaths.all_deaths()} == played


def test_a_round_of_kills_is_drawn_from_its_seed_and_number_alone():
    assert _fault_kills.plan(3, 14, 10) == _fault_kills.plan(3, 14, 10)
    assert len({_fault_kills.plan(3, index, 10) for index in range(50)}) == 50


def test_every_row_stands_on_the_page_once():
    told = re.findall(r"^\| ([RS]\d+) \|", PAGE.read_text(), re.MULTILINE)

    assert told == ROWS


def test_every_row_names_a_test_or_a_reason():
    for line in PAGE.read_text().splitlines():
        if re.match(r"\| [RS]\d+ \|", line):
            shown = line.rstrip(" |").rpartition("|")[2].strip()
            assert "::" in shown or shown.startswith("none:"), line


@pytest.mark.parametrize("said", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE.read_text()))))
def test_what_the_page_names_is_there(said):
    path, _, name = said.partition("::")

    assert re.search(rf"^def {name}\b", (ROOT / path).read_text(), re.MULTILINE)

"""Goals beside what was seen: one line each, and whether it is met.

It does not know what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from _measure import show


@dataclass(frozen=True)
class Goal:
    """Something that is to be so."""

    what: str
    goal: str
    seen: str
    met: bool


def at_least(what: str, least: float, seen: float, form: str = "g") -> Goal:
    """Return a goal that the figure must not be under."""
    return Goal(what, f">= {least:{form}}", f"{seen:{form}}", seen >= least)


def at_most(what: str, most: float, seen: float, form: str = "g") -> Goal:
    """Return a goal that the figure must not exceed."""
    return Goal(what, f"<= {most:{form}}", f"{seen:{form}}", seen <= most)


def exactly(what: str, wanted: float, seen: float) -> Goal:
    """Return a goal that is a number."""
    return Goal(what, f"{wanted:g}", f"{seen:g}", seen == wanted)


def show_goals(title: str, goals: Sequence[Goal], notes: str = "") -> None:
    """Print the goals."""
    rows = [[each.what, each.goal, each.seen, "yes" if each.met else "NO"] for each in goals]
    show(title, ("", "goal", "seen", "met"), rows, notes)

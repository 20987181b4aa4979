"""How many devices of a rollout ended well, ended badly, are not known, were left out, are at it, or wait.

Pure. Laws: every state that a device can have is of one sort; a state that nobody knows (from a history
of another version) counts as unknown, never as good; the counts add up to the devices.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final

from slmops.rollout.assignment import BAD, ENDS, GOOD, UNDER_WAY, UNKNOWN, State


class Sort(Enum):
    """What a device's state comes to."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"
    OUT = "left out"
    BUSY = "under way"
    LEFT = "waiting"


def _sort(state: State) -> Sort:
    for sort, states in ((Sort.GOOD, GOOD), (Sort.BAD, BAD), (Sort.UNKNOWN, UNKNOWN), (Sort.BUSY, UNDER_WAY)):
        if state in states:
            return sort
    return Sort.OUT if state in ENDS else Sort.LEFT


SORTS: Final = {state.value: _sort(state) for state in State}
ENDED: Final = frozenset({Sort.GOOD, Sort.BAD, Sort.UNKNOWN, Sort.OUT})


def sort_of(state: str) -> Sort:
    """Return what a state, by its value, comes to."""
    return SORTS.get(state, Sort.UNKNOWN)


def tally(states: Iterable[str]) -> dict[Sort, int]:
    """Return how many of these states are of each sort, all sorts named."""
    found = Counter(sort_of(state) for state in states)
    return {sort: found[sort] for sort in Sort}

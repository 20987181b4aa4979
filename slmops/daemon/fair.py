"""Who is next of those who wait: fair between keys, first come first served within one.

Pure. Start-time fair queueing: each key has a virtual time that its requests move on by what they cost; who
asks for much waits for it, and whoever was away saves nothing up. It does not know requests or workers.

Laws: within a key, order of arrival; of two keys that both always wait, neither is ever ahead of the other by
more than the dearest request of each; who is not there any more is never next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Place(Generic[T]):
    start: float
    arrival: int
    key: str
    item: T


class Line(Generic[T]):
    """The waiting line."""

    def __init__(self) -> None:
        self._places: list[_Place[T]] = []
        self._ends: dict[str, float] = {}
        """Virtual time at which what each key has asked for so far will have been served."""
        self._now = 0.0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._places)

    def of(self, key: str) -> int:
        """Return how many of `key` wait."""
        return sum(place.key == key for place in self._places)

    def join(self, key: str, cost: float, item: T) -> None:
        """Let `item` of `key` wait; `cost` is above 0, in a unit that is the same for all."""
        start = max(self._now, self._ends.get(key, 0.0))
        self._ends[key] = start + cost
        self._arrivals += 1
        self._places.append(_Place(start, self._arrivals, key, item))
        self._places.sort(key=lambda place: (place.start, place.arrival))

    def take(self, can: Callable[[T], bool]) -> T | None:
        """Return the first who `can` be served, who waits no more; None when none can."""
        for at, place in enumerate(self._places):
            if can(place.item):
                del self._places[at]
                self._now = max(self._now, place.start)
                self._ends = {key: end for key, end in self._ends.items() if end > self._now}
                return place.item
        return None

    def leave(self, item: T) -> None:
        """Let `item` wait no more, if it does."""
        self._places = [place for place in self._places if place.item is not item]

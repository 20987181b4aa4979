"""What each sequence holds, what of it a new prompt can begin with, and what must go to make room.

Pure: a book about an engine's sequences, kept by whoever drives it. It does not know engines, requests or
time; the order in which things were used is the order in which they were told.

A sequence is free (empty), at work, or kept: an answer that has ended, for the sake of who begins alike.
What two sequences begin with lies in the pool once, as one span that both hold; who goes on writes a span
of its own.

Laws: what is at work is never thrown out, and has the room to come to its end; of what is kept, the least
recently used goes first; more than the last one is kept only in half of the pool, and of what nobody has
begun with yet only in `UNTRIED` tokens, for every cell in use makes each step longer; a sequence is free
for whoever is let in; a prompt's last token is always read again, for only reading gives logits; as many
tokens are counted as there are cells in use.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

UNTRIED = 512
"""Tokens that are kept on trial: prompts of which no two begin alike would slow all down for nothing (seen: a
step of a 77M model takes 8 to 16 % longer with 1024 more cells in use)."""
ALIKE = 16
"""Tokens that a prompt must share for what it shared them with to be of use."""


@dataclass(frozen=True)
class Entry:
    """How a prompt is let in: first it is given what it shares, then others are thrown out."""

    target: int
    """The sequence that it gets, a free one."""
    source: int | None
    shared: int
    """Tokens of the prompt that need not be read."""
    thrown: tuple[int, ...]
    """Kept sequences that go."""


@dataclass
class _Held:
    """A sequence with tokens."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """What it is made of: (span, how many tokens of its beginning)."""
    whole: int
    """Tokens that it will have at most; 0 of one that is kept."""
    own: bool = False
    """The last span is its own to go on with."""
    tried: bool = False
    """Somebody has begun with it, or it began with somebody."""


@dataclass
class Book:
    """The sequences of one engine."""

    pool: int
    """Tokens that all of them have room for."""
    sequences: int
    slots: int
    """Of the sequences, those at work at most; no more than the others are kept."""
    copies: bool = False
    """What is shared takes room of its own."""
    _held: dict[int, _Held] = field(default_factory=dict)
    """By sequence; the least recently used first."""
    _names: Iterable[int] = field(default_factory=itertools.count)

    def read(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""
        return len(self._held[sequence].ids) if sequence in self._held else 0

    @property
    def at_work(self) -> list[int]:
        """Return the sequences at work."""
        return [sequence for sequence, held in self._held.items() if held.whole]

    @property
    def kept(self) -> list[int]:
        """Return the sequences that are kept, the least recently used first."""
        return [sequence for sequence, held in self._held.items() if not held.whole]

    @property
    def occupied(self) -> int:
        """How many cells of the pool are in use."""
        return sum(self._cells(self._held).values())

    def entry(self, prompt: Sequence[int], whole: int, *, anew: bool) -> Entry | None:
        """Return how `prompt`, which will have `whole` tokens with its answer, can be let in; None: not now.

        `anew` shares nothing, and with nobody at work throws out all that is kept.
        """
        source, shared = (None, 0) if anew else self._alike(prompt)
        going, thrown = [one for one in self.kept if one != source], list[int]()
        if source is not None and source in self.kept:
            going.append(source)
        if anew and not self.at_work:
            thrown, going = going, thrown
        while not self._fits(whole, source, shared, thrown):
            if not going:
                return None
            thrown.append(going.pop(0))
        free = next(one for one in range(self.sequences) if one not in self._held)
        return Entry(free, source, shared, tuple(thrown))

    def begin(self, target: int, prompt: Sequence[int], whole: int, source: int | None, shared: int) -> None:
        """Note that `target` is at work on `prompt`, and that `shared` tokens of it came from `source`."""
        spans = list[tuple[int, int]]()
        if source is not None and shared:
            spans = [(self._name(), shared)] if self.copies else _first(self._held[source].spans, shared)
        tried = shared >= ALIKE
        if source is not None and source in self._held:
            self._held[source] = self._held.pop(source)
            self._held[source].tried |= tried
        self._held[target] = _Held(list(prompt[:shared]), spans, whole, tried=tried)

    def add(self, sequence: int, ids: Sequence[int]) -> None:
        """Note that a sequence at work was given more tokens."""
        held = self._held[sequence]
        held.ids += ids
        if held.own:
            name, count = held.spans[-1]
            held.spans[-1] = (name, count + len(ids))
        else:
            held.spans.append((self._name(), len(ids)))
            held.own = True

    def end(self, sequence: int) -> tuple[int, ...]:
        """Note that a sequence's work has ended, and that it is kept if it may be.

        Return those that are kept no longer, itself perhaps among them; they are forgotten here. What is the
        beginning of another is of no use beside it.
        """
        held = self._held.pop(sequence)
        held.whole = 0
        gone = [other for other in self.kept if held.ids[: self.read(other)] == self._held[other].ids]
        self._held[sequence] = held
        for other in gone:
            del self._held[other]
        while (surplus := self._surplus()) is not None:
            gone.append(surplus)
            del self._held[surplus]
        return tuple(gone)

    def _surplus(self) -> int | None:
        """Return the kept sequence that is to go; None where all may stay."""
        kept = self.kept
        untried = [sequence for sequence in kept if not self._held[sequence].tried]
        if len(untried) > 1 and sum(self._cells(untried).values()) > UNTRIED:
            return untried[0]
        crowded = len(kept) > 1 and sum(self._cells(kept).values()) > self.pool // 2
        return kept[0] if crowded or len(kept) > self.sequences - self.slots else None

    def forget(self, sequence: int) -> None:
        """Note that a sequence is empty."""
        self._held.pop(sequence, None)

    def _alike(self, prompt: Sequence[int]) -> tuple[int | None, int]:
        """Return the sequence that begins most like `prompt`, and how many tokens of it are of use."""
        most = len(prompt) - 1
        found = [(common(held.ids, prompt, most), sequence) for sequence, held in self._held.items()]
        shared, source = max(found, default=(0, None))
        return (source, shared) if shared > 0 else (None, 0)

    def _fits(self, whole: int, source: int | None, shared: int, thrown: Sequence[int]) -> bool:
        """Say whether a newcomer fits in with those at work, all of them at their full length."""
        staying = set(self._held) - set(thrown)
        cells = self._cells(staying)
        if source is not None and not self.copies:
            for name, count in _first(self._held[source].spans, shared):
                cells[name] = max(cells.get(name, 0), count)
            whole -= shared
        growth = sum(max(0, self._held[one].whole - len(self._held[one].ids)) for one in staying)
        return sum(cells.values()) + growth + whole <= self.pool

    def _cells(self, holders: Iterable[int]) -> dict[int, int]:
        """Return how much of each span is in use."""
        cells = dict[int, int]()
        for holder in holders:
            for name, count in self._held[holder].spans:
                cells[name] = max(cells.get(name, 0), count)
        return cells

    def _name(self) -> int:
        return next(iter(self._names))


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Return how many ids at the start are the same in both, `most` at most."""
    low, high = 0, min(len(one), len(other), most)
    while low < high:
        # Comparing slices is far faster than comparing ids one by one.
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _first(spans: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Return the spans that hold the first `count` tokens."""
    found = list[tuple[int, int]]()
    for name, size in spans:
        if count <= 0:
            break
        found.append((name, min(size, count)))
        count -= size
    return found

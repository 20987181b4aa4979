"""Which sequence a prompt gets where each has room of its own, what it begins with, and who changes places.

Pure, as `prefix`, whose book is for sequences that share one room. It does not know engines, requests or
time.

What a sequence holds costs the others nothing here: it is kept until the sequence is needed. But those that
step together are computed in one go only side by side; each gap between them is one more look at all of the
model's weights.

Laws: what is at work is never thrown out; of what is kept, the least recently used goes first; what goes on
with nearly all of what is kept goes on in its place, and copies nothing; a prompt's last token is always read
again, for only reading gives logits; to change places costs no more copying than one context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from slmops.daemon.prefix import ALIKE, Entry, common

COPIED = 8
"""Tokens that may be copied for one that is shared: a sequence is copied as a whole."""


@dataclass
class Lanes:
    """The sequences of one engine."""

    context: int
    """Tokens that each has room for."""
    sequences: int
    _held: dict[int, list[int]] = field(default_factory=dict)
    """Tokens by sequence; the least recently used first, and none that is empty and idle."""
    _working: set[int] = field(default_factory=set)

    @property
    def kept(self) -> list[int]:
        """Return the sequences that are kept, the least recently used first."""
        return [sequence for sequence in self._held if sequence not in self._working]

    def read(self, sequence: int) -> int:
        """Return how many tokens a sequence has."""
        return len(self._held.get(sequence, ()))

    def entry(self, prompt: Sequence[int], whole: int, *, anew: bool) -> Entry | None:
        """Return how `prompt` can be let in, of `whole` tokens with its answer; None: all are at work."""
        free = next((one for one in range(self.sequences) if one not in self._held), None)
        target = free if free is not None else next(iter(self.kept), None)
        if target is None or whole > self.context:
            return None
        source, shared = (None, 0) if anew else self._alike(prompt)
        if source is None:
            return Entry(target, None, 0, ())
        if source not in self._working and self.read(source) - shared < ALIKE:
            return Entry(source, source, shared, ())
        if source != target and shared < max(ALIKE, self.read(source) // COPIED):
            return Entry(target, None, 0, ())
        return Entry(target, source, shared, ())

    def begin(self, target: int, prompt: Sequence[int], _whole: int, source: int | None, shared: int) -> None:
        """Note that `target` is at work on `prompt`, and that `shared` tokens of it came from `source`."""
        if source is not None and source in self._held:
            self._held[source] = self._held.pop(source)
        self._held.pop(target, None)
        self._held[target] = list(prompt[:shared])
        self._working.add(target)

    def add(self, sequence: int, ids: Sequence[int]) -> None:
        """Note that a sequence at work was given more tokens."""
        self._held[sequence] += ids

    def end(self, sequence: int) -> tuple[int, ...]:
        """Note that a sequence's work has ended, and that it is kept; return who is not any more: none."""
        self._working.discard(sequence)
        self._held[sequence] = self._held.pop(sequence)
        return ()

    def forget(self, sequence: int) -> None:
        """Note that a sequence is empty."""
        self._held.pop(sequence, None)
        self._working.discard(sequence)

    def closing(self) -> Iterator[tuple[int, int]]:
        """Yield who at work is to change places with whom, so that those at work come to lie side by side."""
        if not self._working:
            return
        many = len(self._working)
        starts = range(self.sequences - many + 1)
        start = max(starts, key=lambda start: len(self._working & set(range(start, start + many))))
        place = set(range(start, start + many))
        for one, other in zip(sorted(self._working - place), sorted(place - self._working), strict=True):
            if self.read(one) + self.read(other) <= self.context:
                yield one, other

    def exchange(self, one: int, other: int) -> None:
        """Note that two sequences have changed places."""
        names = {one: other, other: one}
        self._held = {names.get(sequence, sequence): ids for sequence, ids in self._held.items()}
        self._working = {names.get(sequence, sequence) for sequence in self._working}

    def _alike(self, prompt: Sequence[int]) -> tuple[int | None, int]:
        """Return the sequence that begins most like `prompt`, the least recently used of several."""
        most = len(prompt) - 1
        found = [(common(ids, prompt, most), sequence) for sequence, ids in self._held.items()]
        shared, source = max(found, key=lambda one: one[0], default=(0, None))
        return (source, shared) if shared > 0 else (None, 0)

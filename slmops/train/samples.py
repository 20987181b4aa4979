"""What a model learns from: token ids, which of them are to be learned, and for classifiers a label.

Pure, and flat: a corpus is four arrays, however many samples it has.

Laws: the first token of a sample is never learned, nothing stands before it; no sample is empty;
equal samples have equal digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slmops import digest


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples one after another."""

    ids: NDArray[np.int32]
    """Token ids of all samples, end to end: [tokens]."""
    learned: NDArray[np.bool_]
    """Whether each token is to be foretold from those before it: [tokens]."""
    starts: NDArray[np.int64]
    """Where each sample begins, and where the last one ends: [samples + 1]."""
    labels: NDArray[np.int32] | None = None
    """Of classifiers, each sample's label: [samples]."""

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each sample."""
        return np.diff(self.starts)

    @property
    def learned_tokens(self) -> int:
        """Return how many tokens are to be learned."""
        return int(self.learned.sum())

    def part(self, place: int) -> slice:
        """Return where sample `place` lies in `ids` and `learned`."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def throughout(self) -> Samples:
        """Return the same samples, all tokens of them to be learned."""
        learned = np.ones(len(self.ids), np.bool_)
        learned[self.starts[:-1]] = False
        return Samples(self.ids, learned, self.starts, self.labels)

    @cached_property
    def digest(self) -> str:
        """Return one sha256 of everything that is learned from."""
        labels = b"" if self.labels is None else self.labels.tobytes()
        parts = (self.ids.tobytes(), self.learned.tobytes(), self.starts.tobytes(), labels)
        return digest.of_pieces(parts)


def collect(
    texts: Iterable[tuple[Sequence[int], Sequence[bool]]], labels: Sequence[int] | None = None
) -> Samples:
    """Return samples from the ids of each text and whether each of them is learned."""
    pairs = [(np.asarray(ids, np.int32), np.asarray(learned, np.bool_)) for ids, learned in texts if len(ids)]
    for _, learned in pairs:
        learned[0] = False
    starts = np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64)
    return Samples(
        np.concatenate([ids for ids, _ in pairs]) if pairs else np.zeros(0, np.int32),
        np.concatenate([learned for _, learned in pairs]) if pairs else np.zeros(0, np.bool_),
        starts,
        None if labels is None else np.asarray(labels, np.int32),
    )

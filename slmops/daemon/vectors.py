"""Vectors of texts as they come to be: what is read next, and the mean of what was read.

Pure. It does not know engines or requests.

Law: a text's vector is the mean of what its tokens come to, made one long, however the text was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

States = NDArray[np.float64]
"""What some tokens come to, in sum: one number for each of a vector's."""


@dataclass(eq=False)
class Vectors:
    """A request for vectors, on its way through the engine: one text after the other."""

    texts: Sequence[Sequence[int]]
    """Ids, at least one of each text."""
    found: list[list[float]] = field(default_factory=list)
    """The vectors of the first texts."""
    read: int = 0
    """Tokens that were read of the text after those."""
    sequence: int = -1
    """Where it is at work; none yet."""
    _sum: States | None = None

    @property
    def ids(self) -> Sequence[int]:
        """Return the text that is read."""
        return self.texts[len(self.found)]

    @property
    def whole(self) -> int:
        """Tokens of the text that is read."""
        return len(self.ids)

    @property
    def done(self) -> bool:
        """Say whether there is a vector of each text."""
        return len(self.found) == len(self.texts)

    def hear(self, count: int, states: States) -> bool:
        """Take what the next `count` tokens come to; say whether the text ends there."""
        self._sum = states if self._sum is None else self._sum + states
        self.read += count
        if self.read < self.whole:
            return False
        length = float(np.linalg.norm(self._sum)) or 1.0
        self.found.append((self._sum / length).astype(np.float32).tolist())
        self.read, self._sum = 0, None
        return True

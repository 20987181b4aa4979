"""How much each input of a matrix matters: the mean square of what flows into it over calibration text.

Pure. What llama.cpp calls an importance matrix ("imatrix"). Rounding a weight hurts in proportion to
the square of the input it is multiplied with, so a quantiser that knows these weighs its errors by them.

Law: every value is positive and finite, so that no column is ever free to be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from slmops import digest

Columns = npt.NDArray[np.float32]

LEAST = 1e-6
"""Of the mean over a matrix: what a column counts whose input was never other than zero."""


@dataclass(frozen=True, eq=False)
class Importance:
    """What was collected, and from what."""

    columns: Mapping[str, Columns]
    """Mean square of each input column, by the name of the weight in the checkpoint."""
    digest: str
    """sha256 of the calibration file."""
    tokens: int
    sequences: int

    @cached_property
    def fingerprint(self) -> str:
        """Return one sha256 of all values: what is built with them is named by it."""
        pieces = (name.encode() + self.columns[name].tobytes() for name in sorted(self.columns))
        return digest.of_pieces(pieces)


def mean_squares(sums: Mapping[str, npt.NDArray[np.float64]], tokens: int) -> dict[str, Columns]:
    """Return the importance of each column from sums of squares over `tokens` inputs."""
    found = {}
    for name, total in sums.items():
        mean = total / max(tokens, 1)
        floor = max(float(mean.mean()) * LEAST, float(np.finfo(np.float32).tiny))
        found[name] = np.maximum(mean, floor).astype(np.float32)
    return found

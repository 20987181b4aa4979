"""What llama.cpp is asked to compute in one call, as arrays: a row for each token.

It does not know models.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray


class Rows:
    """A llama_batch with its columns as arrays: one row a token."""

    def __init__(self, size: int) -> None:
        self.tokens, self.positions, self.sequences = (np.zeros(size, np.int32) for _ in range(3))
        self.wanted = np.zeros(size, np.int8)
        self._ones = np.ones(size, np.int32)
        first, wide = self.sequences.ctypes.data, self.sequences.itemsize
        self._names = np.arange(first, first + size * wide, wide, dtype=np.uintp)
        """For each row a pointer to the number of its sequence."""
        kinds = dict(llama_cpp.llama_batch._fields_)

        def pointer(field: str, column: NDArray[Any]) -> Any:
            return ctypes.cast(column.ctypes.data, kinds[field])

        self.batch = llama_cpp.llama_batch(
            token=pointer("token", self.tokens),
            pos=pointer("pos", self.positions),
            n_seq_id=pointer("n_seq_id", self._ones),
            seq_id=pointer("seq_id", self._names),
            logits=pointer("logits", self.wanted),
        )

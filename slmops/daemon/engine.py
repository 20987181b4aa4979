"""What any runtime must be able to do, and what it has read so far.

It does not know llama.cpp, ONNX Runtime, text or requests: token ids go in, logits come out.

Law: an answer does not depend on what was asked before. What two prompts share is computed once, but
only in whole strides counted from the first token, so that every batch has the same shape whether
or not its predecessors were still there, and the logits are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""One number per token of the vocabulary."""


class Engine(Protocol):
    """A loaded model with the keys and values of one sequence."""

    @property
    def context(self) -> int:
        """Tokens that fit into the sequence."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids the model knows: 0 up to, not including, this."""

    @property
    def stride(self) -> int:
        """Most tokens that `feed` takes at once."""

    def feed(self, ids: Sequence[int]) -> Logits:
        """Append 1 to `stride` ids; return the logits after the last, valid until the next feed."""

    def rewind(self, length: int) -> int:
        """Forget all but the first `length` tokens; return how many are left (fewer if need be)."""


class Transcript:
    """What an engine has read, and how to make it read a prompt with the least work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._read: list[int] = []
        """Prompt ids in the engine's memory that were read in whole strides."""

    def read(self, prompt: Sequence[int], gone: Callable[[], bool]) -> Logits | None:
        """Read `prompt` as a new sequence; return the logits after it, or None when `gone` said stop.

        The last stride is always read again, because only reading gives logits.
        """
        stride = self._engine.stride
        shared = min(_common(self._read, prompt), len(prompt) - 1)
        start = self._engine.rewind(shared - shared % stride)
        self._read = list(prompt[:start])
        logits: Logits | None = None
        for at in range(start, len(prompt), stride):
            if gone():
                return None
            batch = prompt[at : at + stride]
            logits = self._engine.feed(batch)
            if len(batch) == stride:
                self._read.extend(batch)
        return logits

    def each(self, prompt: Sequence[int], gone: Callable[[], bool]) -> Iterator[Logits]:
        """Read `prompt` anew, token by token as an answer is; yield the logits after each until `gone`.

        An engine keeps one row of logits: room for a stride of rows would be memory that nobody planned.
        """
        self._engine.rewind(0)
        self._read = []
        for token in prompt:
            if gone():
                return
            yield self._engine.feed((token,))

    def add(self, token: int) -> Logits:
        """Read one token of the answer; return the logits after it."""
        return self._engine.feed((token,))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids at the start are the same in both."""
    limit = min(len(one), len(other))
    return next((at for at in range(limit) if one[at] != other[at]), limit)

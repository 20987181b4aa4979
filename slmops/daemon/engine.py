"""What any runtime must be able to do: read prompts, and go on with several sequences at once.

It does not know llama.cpp, ONNX Runtime, text or requests: token ids go in, logits come out. Sequences are
called by number, 0 up to, not including, `sequences`; one thread calls.

Laws: ids that are read in a call of their own are computed alone, so that with nobody else about an answer is
the same to the last bit; what was shared is as if it had been read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slmops.daemon.vectors import States

Logits = NDArray[np.float32]
"""One number per token of the vocabulary."""


@dataclass(frozen=True)
class Shape:
    """How large an engine is wanted."""

    context: int
    """Tokens that one sequence may have."""
    pool: int
    """Tokens that all of them together have room for."""
    slots: int
    """Sequences that go on together at most."""
    stride: int
    """Ids of a prompt that are computed in one call at most."""
    threads: int


class Part(NamedTuple):
    """Ids of a prompt that one sequence is given in one call."""

    sequence: int
    ids: Sequence[int]
    wants_logits: bool


class Engine(Protocol):
    """A loaded model with the keys and values of several sequences."""

    @property
    def context(self) -> int:
        """Tokens that one sequence may have."""

    @property
    def pool(self) -> int:
        """Tokens that all sequences together have room for; not below `context`."""

    @property
    def slots(self) -> int:
        """Most rows of one `step`."""

    @property
    def sequences(self) -> int:
        """Number of sequences; more than `slots` where some can be kept beside those at work."""

    @property
    def apart(self) -> bool:
        """Say whether each sequence has room of its own for a whole context."""

    @property
    def copies(self) -> bool:
        """Say whether what is shared takes room of its own."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids the model knows: 0 up to, not including, this."""

    @property
    def stride(self) -> int:
        """Most ids that `read` takes at once."""

    @property
    def outputs(self) -> int:
        """Most ids that `embed` takes at once."""

    @property
    def width(self) -> int:
        """Numbers of a text's vector; 0 where the model cannot tell what a text means."""

    @property
    def parts(self) -> int:
        """Most parts that `read` takes at once; 1 where nothing is won by several."""

    def read(self, parts: Sequence[Part]) -> list[Logits | None]:
        """Append ids to 1 to `parts` sequences, 1 to `stride` ids in all.

        Return the logits after the last of each part, valid until the next call, or None where they are not
        wanted. Raise ModelError when it cannot be computed; the sequences are then to be emptied.
        """

    def step(self, rows: Sequence[tuple[int, int]]) -> list[Logits]:
        """Append one token to each of 1 to `slots` sequences, computed together: (sequence, token).

        Return the logits after each, valid until the next call. Raise ModelError as `read` does.
        """

    def keep(self, sequence: int, length: int) -> int:
        """Forget all but the first `length` tokens of a sequence; return how many are left.

        That is 0 where the model cannot forget a part.
        """

    def share(self, source: int, target: int, length: int) -> int:
        """Let `target`, which is empty, begin with the first `length` tokens of `source`.

        Return how many it has now: `length`, or 0 where that cannot be done.
        """

    def exchange(self, one: int, other: int) -> None:
        """Let two sequences change places, which are `apart` and have `context` tokens together at most.

        Raise ModelError when that fails; both are lost then.
        """

    def embed(self, sequence: int, ids: Sequence[int]) -> States:
        """Append 1 to `outputs` ids to a sequence; return the sum of what they come to.

        Raise ModelError as `read` does.
        """

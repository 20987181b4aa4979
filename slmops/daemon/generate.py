"""One answer as it comes to be: it is told logits, chooses tokens, and gives pieces.

It does not know runtimes, tokenizers or requests, nor who else is computed with it.

Laws: the pieces join to the same text however the model cut it into tokens; no piece holds any part
of a stop string; the last piece, and only that, says why the answer ended; where scores are wanted,
every token that was read to be scored, or written, is told of once, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from slmops.daemon.engine import Logits
from slmops.daemon.sample import bend, choose
from slmops.daemon.sampling import Sampling
from slmops.daemon.scores import Scored, score
from slmops.daemon.text import Writer

Finish = Literal["stop", "length"]


class Constraint(Protocol):
    """What an answer must keep to."""

    def mask(self, logits: Logits) -> None:
        """Make what may not come next impossible."""

    def take(self, token: int) -> bool:
        """Note what came next; say whether the answer is complete."""


@dataclass(frozen=True)
class Wish:
    """One answer wanted."""

    ids: Sequence[int]
    """The prompt; never empty."""
    limit: int
    """Most tokens of answer; prompt and answer fit into the context together. None at all (0) is for a
    prompt that is scored."""
    sampling: Sampling
    stops: Sequence[str] = ()
    """Strings that end the answer and are not part of it; never empty strings."""
    alternatives: int | None = None
    """Score each token, and tell so many likeliest ones beside it; None scores nothing."""
    scores_prompt: bool = False
    """Score the prompt's tokens too: it is read token by token, as slowly as an answer is written."""
    anew: bool = False
    """Nothing that was read before is used again."""
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Piece:
    """What one step adds to the answer."""

    text: str
    tokens: int
    """Tokens of the answer so far; one that ends it by its id is not counted."""
    finish: Finish | None = None
    scored: tuple[Scored, ...] = ()
    """The tokens that this step scored."""


class Writing:
    """The writing of one answer, from the logits after its prompt on."""

    def __init__(self, wish: Wish, decode: Callable[[Sequence[int]], str], stop_ids: Sequence[int]) -> None:
        """`decode` is the vocabulary's; `stop_ids` end an answer."""
        self.wish = wish
        self.token = -1
        """The last token, which the engine is to be given next."""
        self._decode, self._stop_ids = decode, frozenset(stop_ids)
        self._chance = np.random.default_rng(wish.sampling.seed)
        self._writer, self._stops = Writer(decode, wish.ids), Stops(wish.stops)
        self._written: list[int] = []
        self._counts: Counter[int] = Counter()
        self._scored: list[Scored] = []

    def foretold(self, at: int, logits: Logits | None) -> None:
        """Score the prompt's token `at`; `logits` foretold it, of the first None."""
        ids, most = self.wish.ids, self.wish.alternatives or 0
        self._scored.append(score(self._decode, ids[:at], ids[at], logits, most))

    def unwritten(self) -> Piece:
        """Return the whole answer of a wish for none."""
        return Piece("", 0, "length", tuple(self._scored))

    def hear(self, logits: Logits) -> Piece:
        """Choose the next token; return what it adds. After the last piece there is nothing to hear.

        Raise ModelError when the model computes no numbers.
        """
        wish = self.wish
        token = self.token = self._choose(logits)
        if token in self._stop_ids:
            return self._last("stop")
        if wish.alternatives is not None:
            before = [*wish.ids[-8:], *self._written[-8:]]
            self._scored.append(score(self._decode, before, token, logits, wish.alternatives))
        self._written.append(token)
        complete = wish.constraint is not None and wish.constraint.take(token)
        text, stopped = self._stops.push(self._writer.push(token))
        if stopped:
            return self._piece(text, "stop")
        if complete or len(self._written) == wish.limit:
            return self._last("stop" if complete else "length", text)
        return self._piece(text)

    def _choose(self, logits: Logits) -> int:
        wish = self.wish
        if wish.sampling.bends:
            logits = bend(logits, wish.sampling, self._counts)
        if wish.constraint is not None:
            logits = logits.copy()
            wish.constraint.mask(logits)
        token = choose(logits, wish.sampling, self._chance)
        if wish.sampling.bends:
            self._counts[token] += 1
        return token

    def _last(self, finish: Finish, text: str = "") -> Piece:
        rest, stopped = self._stops.push(self._writer.flush())
        if stopped:
            return self._piece(text + rest, "stop")
        return self._piece(text + rest + self._stops.flush(), finish)

    def _piece(self, text: str, finish: Finish | None = None) -> Piece:
        scored, self._scored = tuple(self._scored), []
        return Piece(text, len(self._written), finish, scored)


class Stops:
    """Holds text back for as long as it may become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what may be said, and whether a stop string was complete.

        Of several the one that ends first counts, and of those that end there the longest.
        """
        if not self._stops:
            return text, False
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            return self._held[: min(found)[1]], True
        waiting = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        said, self._held = self._held[: len(self._held) - waiting], self._held[len(self._held) - waiting :]
        return said, False

    def flush(self) -> str:
        """Return what was held and became no stop string."""
        said, self._held = self._held, ""
        return said


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a start of `stop`, not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

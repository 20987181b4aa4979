"""The loop from a prompt's ids to pieces of an answer.

It does not know runtimes, tokenizers or requests; it draws them together by their Protocols.

Laws: the pieces join to the same text however the model cut it into tokens; no piece holds any part
of a stop string; the last piece, and only that, says why the answer ended; where scores are wanted,
every token that was read to be scored, or written, is told of once, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slmops.daemon.engine import Logits, Transcript
from slmops.daemon.sample import Sampling, choose
from slmops.daemon.scores import Scored, score
from slmops.daemon.text import Writer

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Ask:
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


@dataclass(frozen=True)
class Piece:
    """What one step of the loop adds to the answer."""

    text: str
    tokens: int
    """Tokens of the answer so far; one that ends it by its id is not counted."""
    finish: Finish | None = None
    scored: tuple[Scored, ...] = ()
    """The tokens that this step scored."""


class Stops:
    """Holds text back for as long as it may become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what may be said, and whether a stop string was complete.

        Of several the one that ends first counts, and of those that end there the longest.
        """
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


def generate(
    transcript: Transcript,
    decode: Callable[[Sequence[int]], str],
    stop_ids: Sequence[int],
    ask: Ask,
    gone: Callable[[], bool],
) -> Iterator[Piece]:
    """Yield one piece per token; stop without a last piece as soon as `gone` says nobody listens."""
    chance = np.random.default_rng(ask.sampling.seed)
    writer, stops = Writer(decode, ask.ids), Stops(ask.stops)
    read = list(ask.ids)
    scored, logits = _read(transcript, decode, ask, gone)
    if (scored or not ask.limit) and not gone():
        yield Piece("", 0, None if ask.limit else "length", scored)
    tokens = 0
    while logits is not None and tokens < ask.limit and not gone():
        token = choose(logits, ask.sampling, chance)
        if token in stop_ids:
            yield _last(writer, stops, tokens, "stop")
            return
        tokens += 1
        scored = ()
        if ask.alternatives is not None:
            scored = (score(decode, read, token, logits, ask.alternatives),)
            read.append(token)
        text, stopped = stops.push(writer.push(token))
        if stopped:
            yield Piece(text, tokens, "stop", scored)
            return
        if tokens == ask.limit:
            last = _last(writer, stops, tokens, "length")
            yield Piece(text + last.text, tokens, last.finish, scored)
            return
        yield Piece(text, tokens, None, scored)
        logits = transcript.add(token)


def _read(
    transcript: Transcript, decode: Callable[[Sequence[int]], str], ask: Ask, gone: Callable[[], bool]
) -> tuple[tuple[Scored, ...], Logits | None]:
    """Read the prompt; return its tokens, where they are scored, and the logits after the last."""
    if not ask.scores_prompt:
        return (), transcript.read(ask.ids, gone) if ask.limit else None
    ids, most = ask.ids, ask.alternatives or 0
    found, logits = [score(decode, (), ids[0], None, most)], None
    for read, logits in enumerate(transcript.each(ids, gone), 1):
        if read < len(ids):
            found.append(score(decode, ids[:read], ids[read], logits, most))
    return tuple(found), logits


def _last(writer: Writer, stops: Stops, tokens: int, finish: Finish) -> Piece:
    text, stopped = stops.push(writer.flush())
    return Piece(text if stopped else text + stops.flush(), tokens, "stop" if stopped else finish)


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a start of `stop`, not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

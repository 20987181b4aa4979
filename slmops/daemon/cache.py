"""Answers that were given before, to be given again: bounded in bytes, the one unused for longest goes first.

Pure. It does not know HTTP, the worker, or the clock, and it is off unless somebody asks for it.

Theory. An answer is kept under all that it follows from: the artifact's digest, the digest of what the
prompt was rendered by, and the request in one canonical writing. Only requests that ask for the same answer
each time are kept: those that choose greedily (temperature 0, or one candidate), and those that give a seed.
Either way the client has said that chance is not wanted. A worker may still differ in the last bit with the
company that a request had; what is kept is one of the answers it gives. Who says `cache_prompt: false` wants
it computed, and so does the gate: that is never answered from here. Callers are kept apart: how fast an
answer comes would otherwise tell one application what another has asked.

Laws: `held` never exceeds `room`; what is found is what was kept under that very name, but for the id of the
answer, which is new; a version that goes takes its answers along.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from slmops.daemon.api import ChatRequest, CompletionRequest

APIECE: Final = 512
"""Bytes that an entry takes besides its answer: its name, its id, its place in the order."""
UNSAID: Final = ("model", "user")
"""Fields that no answer follows from: the digest says which model, and who asks is `caller`."""

Name = tuple[str, bytes]
"""The artifact's digest, and a digest of everything else."""


@dataclass(frozen=True)
class Kept:
    """One answer, whole."""

    answer: str
    """Its id, as the client saw it."""
    data: bytes
    """The body; of a stream: all of its events."""
    text: str
    """What it says, for captures."""

    def again(self, answer: str) -> bytes:
        """Return the bytes with the id that this answer is to have now."""
        return self.data.replace(self.answer.encode(), answer.encode())


def name(
    digest: str,
    template: str,
    request: ChatRequest | CompletionRequest,
    defaults: dict[str, float],
    caller: str = "",
) -> Name | None:
    """Return under what an answer is kept; None where it must be computed each time.

    `template` is a digest of the chat template, `defaults` are the release's generation settings, `caller` is
    the name of the key that asks.
    """
    said: dict[str, Any] = msgspec.to_builtins(request)
    sampling = request.sampling(defaults)
    chance = sampling.temperature > 0 and sampling.top_k != 1 and sampling.seed is None
    if chance or said.get("cache_prompt") is False:
        return None
    plain = {key: value for key, value in said.items() if key not in UNSAID and value is not None}
    kind = type(request).__name__
    whole = msgspec.json.encode([template, caller, kind, sorted(defaults.items()), plain], order="sorted")
    return digest, hashlib.blake2b(whole, digest_size=32).digest()


class Cache:
    """What is kept, in the order in which it was last of use."""

    def __init__(self, room: int) -> None:
        """Keep at most `room` bytes."""
        self.room = room
        self.held = 0
        self._kept: OrderedDict[Name, Kept] = OrderedDict()

    def __len__(self) -> int:
        """Return how many answers are kept."""
        return len(self._kept)

    def find(self, name: Name) -> Kept | None:
        """Return the answer kept under `name`; None where there is none."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        self._kept.move_to_end(name)
        return kept

    def keep(self, name: Name, kept: Kept) -> None:
        """Keep an answer that came to its end; one that is larger than the whole room is let go."""
        self._forget(name)
        if _size(kept) > self.room:
            return
        self._kept[name] = kept
        self.held += _size(kept)
        while self.held > self.room:
            self._forget(next(iter(self._kept)))

    def drop(self, digest: str) -> None:
        """Forget what a version answered: it goes."""
        for name in [name for name in self._kept if name[0] == digest]:
            self._forget(name)

    def _forget(self, name: Name) -> None:
        kept = self._kept.pop(name, None)
        self.held -= _size(kept) if kept else 0


def _size(kept: Kept) -> int:
    return len(kept.data) + len(kept.text.encode()) + APIECE

"""A teacher's next-token distributions in a hundred bytes each: the likeliest tokens, and some of the others.

Pure: logits to values (`select`), values to bytes and back (`encode`, `decode`). Of each distribution
at most k tokens are kept: three quarters are the likeliest, fewer where those hold COVER of it; the
others are known by what they hold together, their rest, and by tokens drawn from them by their
probabilities, with which a divergence and its gradient come out right on average (compare Anshumann et
al. 2025, arXiv 2503.16870). Without them a student never hears what the rest is made of.

Tokens are packed in as many bits as the vocabulary needs. Log-probabilities are rounded to STEP and
stored as the steps from one to the next, in a Rice code: a quotient in ones and a zero, a remainder
in bits. So are the tokens that were drawn, in the order of their numbers.

Laws: tokens come back in their order; log-probabilities within STEP, none below FARTHEST of them; each
row holds 1; equal values give equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

VERSION = 1
COVER = 0.9999
"""Probability that is enough: a row ends where its tokens hold it."""
STEP = 1 / 16
"""Nats to which log-probabilities are rounded."""
FARTHEST = 255
"""Steps below certainty that can be told of any token: what is less likely than e^-16 counts as that."""
_HEAD = struct.Struct("<IIBBB")
_WORD = 4
"""Bytes that are read at once: a token, wherever among them its bits begin."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TopK:
    """The likeliest outcomes of some distributions."""

    ids: Ints
    """[rows, width], likeliest first; after the last of a row any of them again."""
    logs: Floats
    """[rows, width]: log-probabilities, -inf after the last."""
    rest: Floats
    """[rows]: logarithm of what all others hold, -inf where there are none."""
    drawn: Ints
    """[rows, some]: others, drawn by their probabilities; -1 in rows that are covered."""
    depth: Floats
    """[rows]: mean log-probability of the others, weighed by their probabilities; 0 where covered."""


def select(logits: torch.Tensor, k: int, generator: torch.Generator, temperature: float = 1.0) -> TopK:
    """Return at most `k` outcomes of each of `logits` [rows, outcomes] at `temperature`.

    `generator`, of the CPU, draws from the rest.
    """
    logs = (logits.float() / temperature).log_softmax(-1)
    draws = 0 if k >= logs.shape[1] else k // 4
    top, ids = logs.topk(min(k, logs.shape[1]) - draws)
    before = top.exp().cumsum(-1) - top.exp()
    kept = before < COVER
    ids = ids.where(kept, ids[:, :1])
    others = logs.scatter(1, ids, -torch.inf)
    rest = others.logsumexp(-1)
    drawn, depth = torch.full((len(logs), draws), -1), torch.zeros(len(logs))
    told = rest.exp() > 1 - COVER
    if draws and told.any():
        chances, others = others[told].exp(), others[told]
        drawn[told.cpu()] = torch.multinomial(chances.cpu(), draws, replacement=True, generator=generator)
        deep = (chances * others.masked_fill(chances == 0, 0.0)).sum(-1) / rest[told].exp()
        depth[told.cpu()] = deep.cpu()
    logged = top.masked_fill(~kept, -torch.inf)
    return TopK(ids.cpu().numpy(), logged.cpu().numpy(), rest.cpu().numpy(), drawn.numpy(), depth.numpy())


def encode(top: TopK, outcomes: int) -> bytes:
    """Return `top`, of distributions over `outcomes`, as bytes."""
    kept, told = np.isfinite(top.logs), _told(top.drawn)
    gaps = _gaps(_levels(top.logs))[kept]
    steps = _gaps(np.sort(top.drawn[told], axis=1)).ravel()
    ways = _way(gaps), _way(steps)
    pieces = (
        _HEAD.pack(len(top.ids), outcomes, top.drawn.shape[1], *ways),
        kept.sum(1).astype(np.uint8).tobytes(),
        np.packbits(told).tobytes(),
        _levels(top.rest).astype(np.uint8).tobytes(),
        _levels(top.depth[told], farthest=2**16 - 1).astype("<u2").tobytes(),
        _packed(top.ids[kept], _width(outcomes)),
        *(_packed(each & ((1 << way) - 1), way) for each, way in zip((gaps, steps), ways, strict=True)),
        _unary(np.concatenate([gaps >> ways[0], steps >> ways[1]])),
    )
    return b"".join(pieces)


def decode(data: bytes) -> TopK:
    """Return what `encode` was given, rounded."""
    rows, outcomes, draws, *ways = _HEAD.unpack_from(data)
    reader = _Reader(data, _HEAD.size)
    counts = reader.numbers("u1", rows)
    told = np.unpackbits(reader.numbers("u1", -(-rows // 8)).astype(np.uint8), count=rows).astype(bool)
    rest = reader.numbers("u1", rows)
    deep = reader.numbers("<u2", int(told.sum()))
    sizes = int(counts.sum()), draws * len(deep)
    named = reader.packed(sizes[0], _width(outcomes))
    low = np.concatenate([reader.packed(size, way) for size, way in zip(sizes, ways, strict=True)])
    gaps, steps = np.split(low | reader.unary(sum(sizes)) << np.repeat(ways, sizes), sizes[:1])

    kept = np.arange(counts.max(initial=0)) < counts[:, None]
    logs = _logs(kept, gaps, np.where(counts == outcomes, np.inf, rest))
    ids = np.zeros(kept.shape, np.int64)
    ids[kept] = named
    drawn, depth = np.full((rows, draws), -1), np.zeros(rows, np.float32)
    drawn[told], depth[told] = steps.reshape(len(deep), draws).cumsum(1), -STEP * deep
    return TopK(np.where(kept, ids, ids[:, :1]), logs[:, :-1], logs[:, -1], drawn, depth)


def join(tops: Sequence[TopK]) -> TopK:
    """Return the rows of several, which drew as many each, as one."""
    width = max(top.ids.shape[1] for top in tops)
    ids, logs = [], []
    for top in tops:
        missing = ((0, 0), (0, width - top.ids.shape[1]))
        # A row has at least its likeliest token, to be named again.
        ids.append(np.pad(top.ids, missing, "edge") if len(top.ids) else np.zeros((0, width), np.int64))
        logs.append(np.pad(top.logs, missing, constant_values=-np.inf))
    others = (np.concatenate([getattr(top, name) for top in tops]) for name in ("rest", "drawn", "depth"))
    return TopK(np.concatenate(ids), np.concatenate(logs), *others)


class _Reader:
    """Reads pieces of some bytes, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def numbers(self, kind: str, count: int) -> Ints:
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += found.nbytes
        return found.astype(np.int64)

    def packed(self, count: int, width: int) -> Ints:
        """Return numbers of `width` bits each, 25 at most."""
        nbytes = -(-count * width // 8)
        part = self._data[self._at : self._at + nbytes] + bytes(_WORD)
        self._at += nbytes
        words: NDArray[np.uint32] = np.ndarray(nbytes + 1, "<u4", part, strides=(1,))
        at = np.arange(count) * width
        return np.asarray(words[at >> 3].astype(np.int64) >> (at & 7) & ((1 << width) - 1))

    def unary(self, count: int) -> Ints:
        """Return numbers of which each is so many ones, and a zero; nothing is read behind them."""
        bits = np.unpackbits(np.frombuffer(self._data, np.uint8, offset=self._at), bitorder="little")
        return np.diff(np.flatnonzero(bits == 0)[:count], prepend=-1) - 1


def _packed(numbers: Ints, width: int) -> bytes:
    bits = (numbers[:, None] >> np.arange(width) & 1).astype(np.uint8)
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def _unary(numbers: Ints) -> bytes:
    ends = np.cumsum(numbers + 1)
    bits = np.ones(ends[-1] if len(ends) else 0, np.uint8)
    bits[ends - 1] = 0
    return np.packbits(bits, bitorder="little").tobytes()


def _gaps(numbers: Ints) -> Ints:
    """Return by how much each number of a row is greater than the one before it."""
    return np.subtract(numbers, np.pad(numbers, ((0, 0), (1, 0)))[:, :-1])


def _way(numbers: Ints) -> int:
    """Return how many bits of remainder make the shortest Rice code of `numbers`."""
    most = int(numbers.max(initial=0)).bit_length()
    return min(range(most + 1), key=lambda bits: int((numbers >> bits).sum()) + bits * len(numbers))


def _width(outcomes: int) -> int:
    return (outcomes - 1).bit_length()


def _told(drawn: Ints) -> NDArray[np.bool_]:
    """Return the rows in which something was drawn."""
    return drawn[:, 0] >= 0 if drawn.shape[1] else np.zeros(len(drawn), bool)


def _levels(logs: Floats, farthest: int = FARTHEST) -> Ints:
    return np.rint(np.clip(logs.astype(np.float64) / -STEP, 0, farthest)).astype(np.int64)


def _logs(kept: NDArray[np.bool_], gaps: Ints, rest: NDArray[np.float64]) -> Floats:
    """Return the log-probabilities of what is kept and, last, of the rest; together they hold 1."""
    levels = np.zeros(kept.shape)
    levels[kept] = gaps
    raw = -STEP * np.column_stack([np.where(kept, levels.cumsum(1), np.inf), rest])
    return np.asarray(raw - np.log(np.exp(raw).sum(1, keepdims=True)), np.float32)

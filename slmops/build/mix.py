"""Which type each tensor gets when every byte is to buy as much closeness to the source as it can.

Pure: for each tensor the types it may have, each with its bytes and its measured loss; out comes one
type for each. Losses of tensors are taken to add up, as small independent errors do.

Laws: the result takes at most the bytes that are there (or every tensor its smallest type); it stops where
the predicted loss is low enough; above that, more bytes never give a larger one.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """A type that one tensor may have."""

    type: str
    nbytes: int
    """In the file, up to where the next tensor begins."""
    loss: float
    """Mean KL divergence, nats, when this tensor alone has this type."""


@dataclass(frozen=True)
class Mix:
    """A type for each tensor, and what they come to."""

    types: dict[str, str]
    nbytes: int
    loss: float
    """Predicted: the sum over the tensors."""


def mix(options: Mapping[str, Sequence[Option]], most_bytes: int, enough: float = 0.0) -> Mix:
    """Return the types that lose least in `most_bytes`, or that lose no more than `enough` in least bytes.

    Every tensor begins with its smallest type; the step that lowers the loss most for each byte is
    taken first, for as long as it fits.
    """
    ladders = {name: _hull(choices) for name, choices in options.items()}
    at = dict.fromkeys(ladders, 0)
    nbytes = sum(ladder[0].nbytes for ladder in ladders.values())
    loss = sum(ladder[0].loss for ladder in ladders.values())
    steps = [step for name, ladder in ladders.items() if (step := _step(name, ladder, 0))]
    heapq.heapify(steps)
    while steps and loss > enough:
        _, name = heapq.heappop(steps)
        ladder, now = ladders[name], at[name]
        dearer = ladder[now + 1].nbytes - ladder[now].nbytes
        if nbytes + dearer > most_bytes:
            continue
        at[name] += 1
        nbytes += dearer
        loss += ladder[now + 1].loss - ladder[now].loss
        following = _step(name, ladder, now + 1)
        if following:
            heapq.heappush(steps, following)
    return Mix({name: ladder[at[name]].type for name, ladder in ladders.items()}, nbytes, max(loss, 0.0))


def _step(name: str, ladder: Sequence[Option], at: int) -> tuple[float, str] | None:
    """Return the next step up as (minus loss saved per byte, name); None at the top."""
    if at + 1 == len(ladder):
        return None
    here, there = ladder[at], ladder[at + 1]
    return -(here.loss - there.loss) / (there.nbytes - here.nbytes), name


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the options worth having, smallest first: each step up saves less per byte than the last."""
    ladder: list[Option] = []
    for option in sorted(options, key=lambda option: (option.nbytes, option.loss, option.type)):
        if ladder and option.loss >= ladder[-1].loss:
            continue
        while len(ladder) > 1 and _steeper(ladder[-2], ladder[-1], option):
            ladder.pop()
        if ladder and option.nbytes == ladder[-1].nbytes:
            continue
        ladder.append(option)
    return ladder


def _steeper(first: Option, second: Option, third: Option) -> bool:
    """Return whether going from first to third saves more per byte than from first to second."""
    one = (first.loss - second.loss) * (third.nbytes - first.nbytes)
    both = (first.loss - third.loss) * (second.nbytes - first.nbytes)
    return both >= one

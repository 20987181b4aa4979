"""Set weights to zero, so many of every few in a row: what is called N:M or semi-structured sparsity.

Which ones: those whose size times that of what they are multiplied with is least (Sun et al., Wanda). The
model keeps its shape and its bytes; only kernels of some GPUs are faster for it, none that serves on a CPU.

Laws: of every M weights in a row of a masked matrix N are kept at most; what is kept does not change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from slmops.errors import UsageError
from slmops.train.cuts import Body
from slmops.train.study_influence import Flow, is_turned, matrix

HONEST = (
    "zeros are stored like any other weight: the model is as large as before and no faster on any CPU; "
    "some GPUs use them"
)


@dataclass(frozen=True)
class Pattern:
    """N of every M weights are kept."""

    kept: int
    of: int

    def __str__(self) -> str:
        """Write it as people do: 2:4."""
        return f"{self.kept}:{self.of}"


def parse_pattern(said: str) -> Pattern:
    """Return the pattern that is said as 2:4; raise UsageError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", said)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise UsageError(f"--mask: expected N:M with N below M, such as 2:4, got {said!r}")
    return Pattern(int(found[1]), int(found[2]))


def mask(model: Any, body: Body, flow: Flow, pattern: Pattern) -> float:
    """Set weights of `model`'s layers to zero, in place; return the share of its weights that are zero.

    `flow` is what flows through this very model. Matrices whose rows M does not divide stay as they are.
    """
    weights = dict(model.named_parameters())
    zeros, whole = 0, sum(int(weight.numel()) for weight in weights.values())
    for name, moment in flow.moments.items():
        if name not in weights or body.anatomy.place(name)[0] is None:
            continue
        rows = matrix(weights, name, body)
        if rows.shape[1] % pattern.of:
            continue
        matters = rows.abs() * moment.diagonal().sqrt()
        kept = _largest(matters, pattern)
        zeros += int((~kept).sum())
        with torch.no_grad():
            weights[name].mul_(kept.T if is_turned(body, name) else kept)
    return zeros / whole


def _largest(matters: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Return which numbers are among the `kept` largest of their `of` neighbours: [rows, columns]."""
    groups = matters.reshape(len(matters), -1, pattern.of)
    best = groups.topk(pattern.kept, dim=-1).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, value=True).reshape(matters.shape)

"""How far a student's next-token distribution lies from its teacher's, as a loss with a gradient.

Pure: logits in, sums in nats out. The teacher is known by all its logits (`Dense`), or by its likeliest
tokens and what the others hold together (`Top`), which counts as one more outcome. To the forward KL,
tokens drawn from those others add what that outcome hides, right on average. At a temperature T both
models' logits are divided by T, those that a `Top` was made of too. What is minimised is T^2 times the
divergence, so that its gradient keeps its size whatever T is (Hinton et al. 2015, arXiv 1503.02531); what
is reported is the divergence itself. Jensen-Shannon is the generalised one of Agarwal et al. 2024 (arXiv
2306.13649): b KL(teacher || m) + (1 - b) KL(student || m), with m = b teacher + (1 - b) student.

Laws: a divergence is never negative and zero only between equals; what a `Top` tells with nothing drawn
is never more than what all logits tell (log-sum inequality), and the same where it leaves nothing out;
rows add up; CHUNK logits are in work at a time, and no more, besides the gradient of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from slmops.train.teaching import Kind

CHUNK = 1 << 19
"""Logits that are compared at a time."""


@dataclass(frozen=True)
class Measure:
    """Which divergence is minimised, and how it is weighed against cross-entropy."""

    kind: Kind = "forward-kl"
    weight: float = 1.0
    """Share of the divergence; the rest is cross-entropy."""
    temperature: float = 1.0
    beta: float = 0.5
    """Of Jensen-Shannon: the teacher's share in the mixture."""

    def of(self, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each row of log-probabilities [rows, outcomes], in nats."""
        if self.kind == "forward-kl":
            return _kl(teacher, student)
        if self.kind == "reverse-kl":
            return _kl(student, teacher)
        none = (teacher == -math.inf) & (student == -math.inf)
        one, other = (
            (logs + math.log(share)).masked_fill(none, 0.0)
            for logs, share in ((teacher, self.beta), (student, 1 - self.beta))
        )
        mixture = torch.logaddexp(one, other)
        return self.beta * _kl(teacher, mixture) + (1 - self.beta) * _kl(student, mixture)


@dataclass(frozen=True, eq=False)
class Dense:
    """A teacher's word, whole."""

    logits: torch.Tensor
    """[rows, outcomes], at temperature 1."""

    def apart(self, student: torch.Tensor, rows: slice, measure: Measure) -> torch.Tensor:
        """Return how far a student, whose logits for `rows` are given, lies from it: a number a row."""
        teacher = self.logits[rows].to(student.dtype) / measure.temperature
        return measure.of(teacher.log_softmax(-1), (student / measure.temperature).log_softmax(-1))


@dataclass(frozen=True, eq=False)
class Top:
    """A teacher's likeliest tokens, and how likely anything else is, at one temperature."""

    ids: torch.Tensor
    """[rows, width], int64; where there are fewer, any id of the row again."""
    logs: torch.Tensor
    """[rows, width]: log-probabilities, -inf where there are fewer."""
    rest: torch.Tensor
    """[rows]: logarithm of what all other tokens have together, -inf where there are none."""
    drawn: torch.Tensor | None = None
    """[rows, some], int64: others, drawn by their probabilities; -1 in rows that tell none."""
    depth: torch.Tensor | None = None
    """[rows]: mean log-probability of the others, weighed by their probabilities."""

    def apart(self, student: torch.Tensor, rows: slice, measure: Measure) -> torch.Tensor:
        """Return how far a student, whose logits for `rows` are given, lies from it: a number a row."""
        ids, logs, rest = self.ids[rows], self.logs[rows].to(student.dtype), self.rest[rows].to(student.dtype)
        scaled = student / measure.temperature
        whole = scaled.logsumexp(-1, keepdim=True)
        others = scaled.scatter(1, ids, -math.inf)
        # A sum over nothing has no gradient: where nothing is left, it is never formed.
        some = others.amax(-1, keepdim=True) > -math.inf
        left = others.where(some, torch.zeros_like(others)).logsumexp(-1, keepdim=True) - whole
        left = left.masked_fill(~some, -math.inf)
        named = (scaled.gather(1, ids) - whole).masked_fill(logs == -math.inf, -math.inf)
        apart = measure.of(torch.cat([logs, rest[:, None]], 1), torch.cat([named, left], 1))
        if self.drawn is None or self.depth is None or measure.kind != "forward-kl":
            return apart
        drawn, depth = self.drawn[rows], self.depth[rows].to(student.dtype)
        told = drawn[:, 0] >= 0
        likely = (scaled.gather(1, drawn.clamp(min=0)) - whole).mean(-1)
        within = (depth - rest) - (likely - left[:, 0])
        return apart + torch.where(told, rest.exp() * within.where(told, torch.zeros_like(within)), 0.0)


Target = Dense | Top


@dataclass(frozen=True, eq=False)
class Sums:
    """A loss over rows, and what it is made of."""

    total: torch.Tensor
    """What is minimised: a scalar with a gradient."""
    cross_entropy: float
    divergence: float
    """At the temperature, not multiplied by its square."""


def compare(
    logits: torch.Tensor,
    right: torch.Tensor,
    target: Target,
    measure: Measure,
    shared: torch.Tensor | None = None,
) -> Sums:
    """Return the loss of a student's `logits` [rows, vocabulary] at temperature 1, summed over the rows.

    `right` [rows] is what stands in the data; `shared` [outcomes] are the ids of the student that the
    target speaks of, all where it is None: the divergence is between what both say of those.
    """

    def work(rows: slice, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        entropy = functional.cross_entropy(some, right[rows], reduction="sum")
        spoken = some if shared is None else some.index_select(1, shared)
        apart = target.apart(spoken, rows, measure).sum()
        scale = measure.weight * measure.temperature**2
        parts = torch.stack([entropy.detach(), apart.detach()])
        # A weight of nothing is a part left out: nothing times an overflow would be no number.
        total = scale * apart if measure.weight else 0.0 * apart
        return total + (1 - measure.weight) * entropy if measure.weight < 1 else total, parts

    total, parts = _Sum.apply(logits, work)
    return Sums(total, *parts.tolist())


def _kl(of: torch.Tensor, against: torch.Tensor) -> torch.Tensor:
    """Return KL(of || against) of each row of log-probabilities; what has no probability adds nothing."""
    none = of == -math.inf
    first, second = of.masked_fill(none, 0.0), against.masked_fill(none, 0.0)
    return (first.exp() * (first - second)).masked_fill(none, 0.0).sum(-1)


Work = Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class _Sum(torch.autograd.Function):  # type: ignore[misc]  # torch says no types
    """Sum of what some work returns for a few rows at a time, each differentiated at once and let go."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, work: Work) -> tuple[torch.Tensor, torch.Tensor]:
        learns = ctx.needs_input_grad[0]
        slope = torch.zeros_like(logits) if learns else None
        total, parts = logits.new_zeros((), dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        step = max(1, CHUNK // logits.shape[1])
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            with torch.set_grad_enabled(learns):
                some = logits[rows].detach().to(_precision(logits)).requires_grad_(learns)
                loss, said = work(rows, some)
                if slope is not None:
                    slope[rows] = torch.autograd.grad(loss, some)[0].to(slope.dtype)
            total, parts = total + loss.detach(), parts + said.cpu()
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(parts)
        return total.to(_precision(logits)), parts

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.saved_tensors[0] * slopes[0], None


def _precision(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32

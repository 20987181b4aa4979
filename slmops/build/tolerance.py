"""How much the scales of an earlier artifact may cost an update: tolerances, and which of them is taken.

Pure. Laws: of the tolerances tried the largest is taken whose loss is bearable; with none of them a model
keeps its own scales.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

TOLERANCES = (0.0, 0.05, 0.1, 0.2, 0.5)
"""By how much the squared error of a block may grow, as a share: what is tried."""
GROWTH = 0.02
"""By how much the divergence from the source may grow, as a share of what it is with scales of its own."""
UNSEEN = 1e-4
"""Nats: a growth of the divergence that is less is not looked at."""


@dataclass(frozen=True)
class Tried:
    """What a tolerance came to."""

    tolerance: float
    reused_share: float
    """Share of the weights that got the earlier scales, 0..1."""
    kl_mean: float
    """Nats."""

    def figures(self, without: float) -> dict[str, float]:
        """Return it for a description; `without` is the divergence (nats) with scales of its own."""
        return {
            "reused_share": self.reused_share,
            "reuse_tolerance": self.tolerance,
            "kl_mean_own_scales": without,
        }


@dataclass(frozen=True)
class Reused:
    """What reusing the scales of an earlier artifact came to."""

    base: str
    """Release of that artifact, name:version."""
    kl_mean: float
    """Nats, with scales of its own."""
    tried: tuple[Tried, ...]

    @property
    def taken(self) -> Tried | None:
        """Return what is taken; None where every tolerance costs too much."""
        most = self.kl_mean + max(GROWTH * self.kl_mean, UNSEEN)
        return max((one for one in self.tried if one.kl_mean <= most), key=_by_tolerance, default=None)

    @property
    def words(self) -> str:
        """Say it for people."""
        one = self.taken
        if one is None:
            return f"no scales of {self.base} are reused: that costs over {GROWTH:.0%} of divergence"
        return (
            f"{one.reused_share:.1%} of its weights reuse the scales of {self.base} (tolerance "
            f"{one.tolerance:.0%}): divergence {one.kl_mean:.3g}, without {self.kl_mean:.3g}"
        )

    def figures(self) -> dict[str, Any]:
        """Return all of it for machines."""
        taken = None if self.taken is None else self.taken.tolerance
        return {**asdict(self), "taken": taken, "words": self.words}


def _by_tolerance(one: Tried) -> float:
    return one.tolerance

"""How good an artifact must be: the gates, and the one place where their numbers stand.

Pure. Laws: what is not a number passes no gate; an artifact that passes a gate passes every weaker one.

The numbers follow what llama.cpp's and other people's tables show for good models: mean divergences
of 1e-3 nats are told apart by no benchmark, 5e-3 is a sound 6-bit type, 3e-2 a sound 4-bit one, and
past 1e-1 people notice. Divergence says little about which of two good artifacts is the better one
at a task, so below `enough` the smaller artifact is the better one.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmops.fault import fault

ENOUGH = 0.005


class Loss(Protocol):
    """What was measured of an artifact against its source."""

    @property
    def kl_mean(self) -> float:
        """Mean divergence, nats."""

    @property
    def top1(self) -> float:
        """Share of tokens, or of texts, on which both choose alike."""

    @property
    def perplexity_ratio(self) -> float | None:
        """The artifact's perplexity by the source's; None of what foretells no text."""

    def figures(self) -> dict[str, float]:
        """Return every figure by its name."""


class Quality(BaseModel):
    """A gate: bounds that an artifact keeps, measured against its source."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kl: Annotated[float, Field(gt=0)] = 0.03
    """Largest mean KL divergence, nats."""
    top1: Annotated[float, Field(ge=0, le=1)] = 0.93
    """Least share of tokens after which both think the same token likeliest."""
    perplexity_ratio: Annotated[float, Field(ge=1)] = 1.03
    """Largest perplexity, as a multiple of the source's."""
    enough: Annotated[float, Field(ge=0)] = ENOUGH
    """Mean KL divergence, at most kl, below which an artifact is good: of good ones the smallest is best."""

    @model_validator(mode="before")
    @classmethod
    def _enough_follows_a_narrower_gate(cls, said: Any) -> Any:
        if isinstance(said, dict) and "enough" not in said and isinstance(said.get("kl"), int | float):
            return {**said, "enough": min(ENOUGH, said["kl"])}
        return said

    @model_validator(mode="after")
    def _enough_is_no_more_than_allowed(self) -> Quality:
        if self.enough > self.kl:
            raise fault(f"expected at most kl, {self.kl:g}", "enough")
        return self

    def complaint(self, measured: Loss) -> str:
        """Return why `measured` does not pass, in words; empty when it does."""
        if not measured.kl_mean <= self.kl:
            return f"mean divergence {measured.kl_mean:.2g}, at most {self.kl:g} allowed"
        if not measured.top1 >= self.top1:
            return f"same first choice {measured.top1:.1%}, at least {self.top1:.1%} wanted"
        ratio = measured.perplexity_ratio
        if ratio is not None and not ratio <= self.perplexity_ratio:
            times = f"{ratio:.3f} times the source's perplexity"
            return f"{times}, at most {self.perplexity_ratio:g} allowed"
        return ""


QUALITIES = {
    "strict": Quality(kl=0.005, top1=0.98, perplexity_ratio=1.01, enough=0.001),
    "balanced": Quality(),
    "small": Quality(kl=0.1, top1=0.88, perplexity_ratio=1.12, enough=0.1),
}
USUAL = "balanced"

"""How a student learns from its teacher: which divergence, how strongly, at what temperature.

Pure: a schema, as a recipe file or the options of a command say it.

Law: what can only be had of a teacher at hand (hidden states, its word on what the student writes)
is never asked of a recorded one.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmops.fault import fault

Kind = Literal["forward-kl", "reverse-kl", "jensen-shannon"]
Share = Annotated[float, Field(ge=0, le=1)]


class Teaching(BaseModel):
    """What is asked of a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    divergence: Kind = "forward-kl"
    """forward-kl: the student covers all that the teacher may say; reverse-kl: it keeps to what the
    teacher is likely to say; jensen-shannon: between the two."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of jensen-shannon alone: the teacher's share in the mixture both are held against."""
    weight: Share = 1.0
    """Share of the divergence in the loss; the rest is cross-entropy with the data. A teacher's whole word
    teaches more than the one token that stands there; less than 1 is for data that knows what it does not."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    """By which both models' logits are divided before they are compared."""
    hidden: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the distance between hidden states, beside the rest; needs the teacher at hand."""
    on_policy: Share = 0.0
    """Share of the batches that the student itself writes for the teacher to judge; needs it at hand."""
    cache: Literal["auto", "yes", "no"] = "auto"
    """Whether the teacher reads the data once, beforehand, and is closed. auto: where that loses nothing,
    with forward-kl and nothing asked that only a teacher at hand can tell."""
    top_k: Annotated[int, Field(ge=1, le=255)] = 64
    """Of a recorded teacher: tokens of each distribution that are kept, at most; a quarter of them drawn."""

    @property
    def recorded(self) -> bool:
        """Return whether the teacher is recorded beforehand."""
        if not self.asked:
            return False
        loses_nothing = self.divergence == "forward-kl" and not self.at_hand
        return self.cache == "yes" or (self.cache == "auto" and loses_nothing)

    @property
    def asked(self) -> bool:
        """Return whether the teacher is asked at all; else the student learns from the data alone."""
        return self.weight > 0 or self.at_hand

    @property
    def at_hand(self) -> bool:
        """Return whether something is asked that only a teacher at hand can tell."""
        return self.hidden > 0 or self.on_policy > 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.cache == "yes" and self.at_hand:
            asked = "hidden" if self.hidden > 0 else "on_policy"
            raise fault(f"expected auto or no, for {asked} needs the teacher at hand, got yes", "cache")
        return self

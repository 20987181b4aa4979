"""How to choose the next token: the numbers that a request and a release say, and no choosing.

Pure, and without numpy: the router reads requests and computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How to choose; the defaults choose greedily."""

    temperature: float = 0.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together hold this share of the probability."""
    seed: int | None = None
    """The same seed gives the same answer; None draws anew each time."""
    min_p: float = 0.0
    """Keep the tokens that have at least this share of the likeliest one's probability."""
    frequency_penalty: float = 0.0
    """Taken from the logit of a token as often as it was written."""
    presence_penalty: float = 0.0
    """Taken once from the logit of a token that was written."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, each once, and what is added to their logits."""

    @property
    def bends(self) -> bool:
        """Say whether logits are changed before a token is chosen from them."""
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias)

"""Put an adapter into the weights of its base, and prove that what comes out says what both said.

Law: a model is merged only if its logits are those of base and adapter, up to rounding in float32.
"""

from __future__ import annotations

from typing import Any

import torch

from slmops.errors import TrainingError

PROBED = (4, 32)
"""Texts, and tokens of each, that both are given: ids from all over the vocabulary."""
CLOSE = 1e-3
"""Largest difference of logits, as a share of the largest logit: what float32 may round."""


def merge(wrapped: Any, vocabulary: int) -> tuple[Any, float]:
    """Return the model that a base wrapped by peft makes with its adapter, and how far their logits differ.

    The difference is the largest, as a share of the largest logit. Raises TrainingError where it is more
    than rounding. `wrapped` is used up.
    """
    wanted = _logits(wrapped.eval(), vocabulary)
    merged = wrapped.merge_and_unload(safe_merge=True)
    apart = float((_logits(merged, vocabulary) - wanted).abs().max() / wanted.abs().max())
    if not apart <= CLOSE:
        raise TrainingError(
            f"the merged model says something else than base and adapter: logits differ by {apart:.2g} of "
            f"the largest, expected at most {CLOSE:g}",
            remedy="Keep the adapter (without --merge), or train it again with a smaller --rate.",
        )
    return merged, apart


def _logits(model: Any, vocabulary: int) -> torch.Tensor:
    texts, tokens = PROBED
    ids = torch.linspace(0, vocabulary - 1, texts * tokens).long().view(tokens, texts).T
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits

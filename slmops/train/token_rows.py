"""The rows of a model that belong to tokens: its embedding, its head, the head's bias.

Knows nothing of tokenizers. Laws: the model given stays whole; what was tied stays tied; whatever in the
config names a token names it by its new id.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from slmops.train.renumbering import numbers_of, renumbered


def with_tokens(model: Any, kept: Sequence[int]) -> Any:
    """Return a transformers model with the rows `kept` of `model`, with which it shares all other weights."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    cut = copy.deepcopy(model, shared)
    embedding, head = cut.get_input_embeddings(), cut.get_output_embeddings()
    rows, numbers = embedding.num_embeddings, numbers_of(kept)
    _replace(cut, _fewer(embedding, head, kept))
    embedding.num_embeddings, embedding.padding_idx = len(kept), numbers.get(embedding.padding_idx)
    if head is not None:
        head.out_features = len(kept)
    for part in (cut.config, *cut.modules()):
        if getattr(part, "vocab_size", None) == rows:
            part.vocab_size = len(kept)
    _rename(cut.config, numbers)
    if cut.can_generate():
        _rename(cut.generation_config, numbers)
    return cut


def _fewer(embedding: Any, head: Any, kept: Sequence[int]) -> dict[int, Any]:
    """Return the parameters with fewer rows, by the identity of those they replace."""
    weights = [embedding.weight, *(() if head is None else (head.weight, head.bias))]
    places = torch.tensor(kept)
    return {id(w): torch.nn.Parameter(w.detach()[places]) for w in weights if w is not None}


def _replace(model: Any, fewer: Mapping[int, Any]) -> None:
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in fewer:
                setattr(module, name, fewer[id(weight)])


def _rename(config: Any, numbers: Mapping[int, int]) -> None:
    said = config.to_dict()
    for key, value in renumbered(said, numbers).items():
        if value != said[key]:
            setattr(config, key, value)

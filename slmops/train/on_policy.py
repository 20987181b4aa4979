"""Let a student write the rest of some samples, for its teacher to judge.

What a student learns from data alone are beginnings that the data wrote; on its own beginnings it then
goes astray. Here it hears what the teacher would say on these (Agarwal et al. 2024, arXiv 2306.13649).

Laws: what is drawn follows from torch's generator, which a training seeds at every step; a sample keeps
its beginning and grows no longer than it was; what the student wrote alone is learned.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from slmops.train.batch import Batch, lay
from slmops.train.samples import collect

BEGINNING = 4
"""Of a text that is learned whole, one part in so many is its beginning."""


def chosen(share: float) -> bool:
    """Draw whether a batch is to be written by the student."""
    return share > 0 and bool(torch.rand(()) < share)


def write_rest(model: Any, batch: Batch, stop_ids: Collection[int]) -> Batch | None:
    """Return the samples of `batch` with what `model` writes in place of their rest; None if none has one."""
    lengths = batch.mask.sum(1).tolist()
    begun = [(_beginning(batch, row), length) for row, length in enumerate(lengths)]
    begun = [(ids, length - len(ids)) for ids, length in begun if len(ids) < length]
    if not begun:
        return None
    model.eval()
    with torch.no_grad():
        rests = _write(model, begun, frozenset(stop_ids), batch.ids.device)
    model.train()
    pairs = zip((ids for ids, _ in begun), rests, strict=True)
    own = collect(([*ids, *rest], [False] * len(ids) + [True] * len(rest)) for ids, rest in pairs)
    return lay(own, range(len(own)), padding=0).to(batch.ids.device)


def _beginning(batch: Batch, row: int) -> list[int]:
    """Return the ids before the first that is learned; of a text that is learned whole, its first part."""
    ids, learned = batch.ids[row][batch.mask[row]], batch.learned[row][batch.mask[row]]
    before = int(learned.int().argmax()) if learned.any() else len(ids)
    return [int(id_) for id_ in ids[: before if before > 1 else max(1, len(ids) // BEGINNING)]]


def _write(
    model: Any, begun: list[tuple[list[int], int]], stop_ids: frozenset[int], device: torch.device
) -> list[list[int]]:
    """Return what `model` says after each beginning, as it comes, at most so many tokens each."""
    width = max(len(ids) for ids, _ in begun)
    # Padded on the left, so that all go on from the same place.
    ids = torch.tensor([[0] * (width - len(each)) + each for each, _ in begun], device=device)
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each, _ in begun], device=device)
    said, past = [list[int]() for _ in begun], None
    going = [True] * len(begun)
    fed = ids
    while any(going):
        places = (mask.cumsum(1) - 1).clamp(min=0)[:, -fed.shape[1] :]
        out = model(
            input_ids=fed, attention_mask=mask, position_ids=places, past_key_values=past, use_cache=True
        )
        past = out.past_key_values
        fed = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
        mask = torch.cat([mask, torch.ones_like(fed)], 1)
        for row, id_ in enumerate(fed[:, 0].tolist()):
            if going[row]:
                said[row].append(id_)
                going[row] = id_ not in stop_ids and len(said[row]) < begun[row][1]
    return said

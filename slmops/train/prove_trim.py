"""Prove that a model with fewer tokens is the model it was, as far as these tokens reach.

Laws: a text whose tokens all stayed is cut into the same ones and reads back the same; the logits of
tokens that stayed are the same logits. Either that holds for every text given, or a BuildError shows the
first for which it does not.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from slmops.build.isolate import Progress
from slmops.errors import BuildError
from slmops.train.read_words import Ids, Reading, Words
from slmops.train.renumbering import numbers_of

TOLERANCE = 1e-4
"""Of the largest logit: as far as float32 products may lie apart when matrices have other shapes."""
REMEDY = "Leave the vocabulary of this model as it is, and report its tokenizer.json."


def prove_ids(whole: Words, cut: Words, kept: Sequence[int]) -> None:
    """Raise BuildError unless the tokens in `cut` are those `kept` of `whole`, numbered in their order."""
    numbers = numbers_of(kept)
    before = whole.tokenizer.get_vocab(with_added_tokens=True)
    expected = {text: numbers[id_] for text, id_ in before.items() if id_ in numbers}
    found = cut.tokenizer.get_vocab(with_added_tokens=True)
    if found != expected:
        text, _ = min(found.items() ^ expected.items())
        raise BuildError(
            f"the trimmed tokenizer does not number its tokens as the model: {text!r} is {found.get(text)}, "
            f"expected {expected.get(text)}",
            remedy=REMEDY,
        )


def prove_words(whole: Words, cut: Words, kept: Sequence[int], old: Reading, new: Reading) -> None:
    """Raise BuildError for a text that is not cut into the tokens it had, or does not read back as it did.

    `old` and `new` are readings of the same texts, which had no tokens but those that stayed.
    """
    numbers = numbers_of(kept)
    for (text, before), after in zip(old, new.ids, strict=True):
        expected = [numbers[id_] for id_ in before.tolist()]
        if after.tolist() != expected or whole.text(before) != cut.text(after):
            raise BuildError(
                f"the trimmed tokenizer reads otherwise than the whole one: {text.text[:120]!r} is "
                f"{_said(cut, after.tolist(), expected)}, expected {_said(cut, expected, after.tolist())}",
                remedy=REMEDY,
            )


def _said(words: Words, ids: Sequence[int], other: Sequence[int]) -> list[str]:
    """Return the first tokens of `ids` from where they are not those of `other`."""
    same = sum(itertools.takewhile(bool, map(operator.eq, ids, other)))
    return [words.tokenizer.id_to_token(id_) for id_ in ids[same : same + 5]]


def prove_answers(
    whole: Any, cut: Any, sequences: Sequence[Ids], kept: Sequence[int], progress: Progress
) -> float:
    """Return the largest difference between the logits of both models at the tokens `kept`.

    `sequences` are in the ids of the whole model, and all of them kept. Raises BuildError where a
    difference is more than float32 explains.
    """
    numbers = numbers_of(kept)
    rows = torch.tensor(kept)
    largest = 0.0
    for number, ids in enumerate(sequences, 1):
        with torch.inference_mode():
            before = whole(input_ids=torch.from_numpy(ids[None].astype(np.int64))).logits
            renumbered = [numbers[int(id_)] for id_ in ids]
            after = cut(input_ids=torch.tensor([renumbered])).logits
        before = before if whole.get_output_embeddings() is None else before[..., rows]
        difference = (after - before).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, before.abs().max().item()):
            raise BuildError(
                "the trimmed model answers otherwise than the whole one: a logit differs by "
                f"{difference:.3g}",
                remedy=REMEDY,
            )
        largest = max(largest, difference)
        progress("comparing answers", number / len(sequences))
    return largest

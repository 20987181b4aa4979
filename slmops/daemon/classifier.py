"""Text classifiers through ONNX Runtime on the CPU: a text in, a probability for each label out.

It does not know requests or the server. The graph is as the builder writes it: input_ids, attention_mask
and perhaps token_type_ids -> logits.

Laws: a text is read whole or refused; it is read without padding, beside texts of its own length or alone, so
that its answer does not depend on what else was asked; texts beside each other have no more tokens than the
longest alone may have, nor take more memory; nothing in a text is taken for a control token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmops.daemon.onnx import failure, open_session
from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.text import Vocabulary
from slmops.errors import ModelError

NEEDED, KNOWN = {"input_ids", "attention_mask"}, {"input_ids", "attention_mask", "token_type_ids"}
ROWS = 8
"""Texts that are read beside each other at most; more of them gain nothing."""
Scores = list[float]
"""A probability for each label, in the order of the labels; they sum to 1."""


class Classifier:
    """A loaded classifier."""

    def __init__(
        self, file: Path, vocabulary: Vocabulary, labels: Sequence[str], context: int, threads: int
    ) -> None:
        """Load `file`; raise ModelError when it does not load or is not such a classifier."""
        self._session = open_session(file, threads)
        self._asked = {found.name for found in self._session.get_inputs()}
        outputs = {found.name: found.shape for found in self._session.get_outputs()}
        if not NEEDED <= self._asked <= KNOWN or "logits" not in outputs:
            raise ModelError(
                f"{file.name} is not a text classifier: it takes {', '.join(sorted(self._asked))}",
                remedy="Build it with `slmops quantize`.",
            )
        self._vocabulary, self._context, self.labels = vocabulary, context, tuple(labels)
        # By some token, not by an empty text: not every tokenizer puts anything around that.
        count = self._logits([[0]]).shape[1]
        if count != len(labels):
            raise ModelError(f"{file.name} has {count} labels, its description names {len(labels)}")

    def ids(self, text: str) -> list[int]:
        """Return the token ids of `text`; raise RefusedError for none, or more than the model can read."""
        ids = self._vocabulary.encode(text, begin=True, controls=False)
        if not ids:
            raise RefusedError(BAD_REQUEST, "input: a text has no tokens", reason="invalid_value")
        if len(ids) > self._context:
            raise RefusedError(
                BAD_REQUEST,
                f"a text has {len(ids)} tokens; the model reads at most {self._context}",
                reason="context_length_exceeded",
                param="input",
            )
        return ids

    def answers(self, texts: Sequence[Sequence[int]], gone: Callable[[], bool]) -> Iterator[Scores]:
        """Yield the scores of each text, given as ids, until `gone` says stop; one caller at a time."""
        found: dict[int, Scores] = {}
        for at, ids in enumerate(texts):
            if at not in found:
                if gone():
                    return
                alike = [other for other in range(at, len(texts)) if len(texts[other]) == len(ids)]
                alike = alike[: max(1, min(ROWS, self._context // len(ids)))]
                rows = self._logits([texts[other] for other in alike]).astype(np.float64)
                powers = np.exp(rows - rows.max(axis=1, keepdims=True))
                found.update(zip(alike, (powers / powers.sum(axis=1, keepdims=True)).tolist(), strict=True))
            yield found.pop(at)

    def _logits(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return a row of logits for each of some texts of one length."""
        rows = np.array(texts, np.int64)
        given = {
            "input_ids": rows,
            "attention_mask": np.ones_like(rows),
            "token_type_ids": np.zeros_like(rows),
        }
        try:
            (logits,) = self._session.run(["logits"], {name: given[name] for name in self._asked})
        # See `open_session`.
        except Exception as error:
            raise failure(error) from error
        found: NDArray[np.float32] = logits
        return found

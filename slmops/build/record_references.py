"""References for an artifact: short texts, and how likely the very file held each of their tokens here.

A device scores the same texts with the same file and lies next to these numbers; a file that is not the
one that was built, or a runtime that computes it wrongly, does not, whatever it answers to questions.

Laws: the model is asked as a server of it scores a text, one token at a time; a text with a character that
its vocabulary lacks, or with more tokens than its context, is left out; the same file gives the same texts.
"""

from __future__ import annotations

import numpy as np

from slmops.artifact.golden import LOGPROB, Golden
from slmops.build.divergence import log_probabilities
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.measure import go_on
from slmops.build.open_model import Model, Shape
from slmops.build.phrase import Phrasing
from slmops.build.subject import Source, name_of, open_weights, open_words

CONTEXT = 64
"""Tokens of a text at most."""
OWN = 32
"""Tokens of the text that the model writes itself: of its own subject, in its own language."""
LEAST = 8
"""Tokens of a text at least: fewer say little."""
DIGITS = 4
"""Of a log-probability after the point: far below what two processors differ by."""
TEXTS = (
    "The old clock on the wall struck nine, and the children ran down to the river to see the boats.",
    "Most people know that water freezes when it is very cold, but only a few of them can say why.",
    "Anna wrote a long letter to her brother, who lived in a small town near the sea.",
)


def record_references(
    source: Source, artifact: Source, context: int, *, progress: Progress = silent
) -> list[Golden]:
    """Return references for `artifact`, whose words are the source's; texts fit into `context` tokens.

    The result may be empty. Raises BuildError when the artifact cannot be run.
    """
    return isolate(f"running {name_of(artifact)}", _record, progress, source, artifact, min(context, CONTEXT))


def _record(progress: Progress, source: Source, artifact: Source, context: int) -> list[Golden]:
    phrasing = open_words(source)
    model = open_weights(artifact, Shape(context, last_only=True), progress)
    texts = [*TEXTS, _own_text(model, phrasing, min(OWN, context))]
    found = []
    for done, text in enumerate(texts, 1):
        asked = Golden(expect=[], match=LOGPROB, prompt=text)
        ids = phrasing.ids(asked)
        if LEAST <= len(ids) <= context and phrasing.unknown_id not in ids:
            found.append(Golden(scores(model, ids), LOGPROB, text))
        progress(f"{name_of(artifact)} reads reference texts", done / len(texts))
    return found


def scores(model: Model, ids: list[int]) -> list[float]:
    """Return the log-probability of each of `ids` after the first, in nats."""
    model.restart()
    rows = (log_probabilities(model.read([id_])[-1]) for id_ in ids[:-1])
    return [round(min(float(row[id_]), 0.0), DIGITS) for row, id_ in zip(rows, ids[1:], strict=True)]


def _own_text(model: Model, phrasing: Phrasing, length: int) -> str:
    """Return what the model writes by itself; nothing where it names no token to begin with."""
    if not phrasing.begin_ids:
        return ""
    written = go_on(model, phrasing.begin_ids, length, phrasing.stop_ids, np.random.default_rng(0))
    text = phrasing.text([id_ for _, id_ in written if id_ not in phrasing.stop_ids])
    return "" if "\ufffd" in text else text.strip()

"""How far one classifier's answers lie from another's, and how often each is right.

Pure: logits and labels in, numbers out. Knows nothing of models, runtimes or files.

Laws: the divergence is never negative and is zero of a classifier with itself; an interval holds its
share and lies in 0..1; golden prompts are texts that all models are sure of, each for another label;
what is not a number never passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slmops.artifact.golden import Golden
from slmops.build.divergence import BOUNDS, Rows, log_probabilities, margin_of_first
from slmops.build.tasks import wilson
from slmops.errors import BuildError

SURE = 0.2
"""By how much probability the source's first label leads its second; artifacts may lead by half of it."""
ENOUGH = 8
"""Golden prompts at most."""


@dataclass(frozen=True)
class Accuracy:
    """How many of some texts got the label they have."""

    right: int
    texts: int

    @property
    def share(self) -> float:
        """Return the share that is right, 0..1."""
        return self.right / self.texts

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval, which holds the true share with 95 % confidence."""
        return wilson(self.right, self.texts)


@dataclass(frozen=True)
class Comparison:
    """What an artifact lost against its source, over texts that calibrated nothing."""

    kl_mean: float
    """Mean of KL(source || artifact) over the distributions of labels, nats."""
    kl_p99: float
    """99th percentile of the same."""
    top1: float
    """Share of the texts to which both give the same label, 0..1."""
    texts: int
    accuracy: Accuracy | None = None
    """Of the artifact, over those texts whose label is known."""
    source_accuracy: Accuracy | None = None

    @property
    def perplexity_ratio(self) -> None:
        """Return nothing: a label is chosen, no text is foretold."""

    def figures(self) -> dict[str, float]:
        """Return all of it as a description's `measured` holds it."""
        said = {"kl_mean": self.kl_mean, "kl_p99": self.kl_p99, "top1": self.top1, "texts": float(self.texts)}
        for name, found in (("accuracy", self.accuracy), ("source_accuracy", self.source_accuracy)):
            if found is not None:
                low, high = found.interval
                said |= {name: found.share, f"{name}_low": low, f"{name}_high": high}
        return said


def compare(source: Rows, artifact: Rows, labels: Sequence[int | None]) -> Comparison:
    """Return the loss of `artifact`; both are logits, (texts, labels), `labels` the right ones if known."""
    expected, got = log_probabilities(source), log_probabilities(artifact)
    loss = np.maximum((np.exp(expected) * (expected - got)).sum(axis=1), 0.0)
    return Comparison(
        kl_mean=float(loss.mean()),
        kl_p99=float(np.percentile(loss, 99)),
        top1=float((source.argmax(axis=1) == artifact.argmax(axis=1)).mean()),
        texts=len(loss),
        accuracy=_accuracy(artifact, labels),
        source_accuracy=_accuracy(source, labels),
    )


def known_right(rows: Rows, labels: Sequence[int | None]) -> tuple[bool, ...]:
    """Return whether each text got its label, of those whose label is known; `rows` are their logits."""
    pairs = zip(rows, labels, strict=True)
    return tuple(int(row.argmax()) == label for row, label in pairs if label is not None)


def judge_classifier(found: Comparison, type_name: str) -> None:
    """Raise BuildError unless the artifact of type F32 or INT8 can be its source."""
    bound = BOUNDS[32 if type_name == "F32" else 8]
    if math.isfinite(found.kl_p99) and found.kl_mean <= bound:
        return
    raise BuildError(
        f"the {type_name} artifact is not its source: mean divergence {found.kl_mean:.3g} nats over "
        f"{found.texts} texts (at most {bound:g} expected), the same label for {found.top1:.1%} of them",
        remedy="Build with --type F32: if that passes, the model does not bear 8 bits.",
    )


def sure_prompts(
    texts: Sequence[str],
    known: Sequence[int | None],
    labels: Sequence[str],
    source: Rows,
    artifacts: Sequence[Rows],
) -> list[Golden]:
    """Return golden prompts: texts whose label all models are sure of, each text for another label.

    What all of them are sure of holds on other processors too, where the last digits of a logit differ.
    Where the right label is `known`, a text that the source has wrong is left out.
    """
    found: dict[int, Golden] = {}
    for text, right, said, *others in zip(texts, known, source, *artifacts, strict=True):
        label = int(said.argmax())
        if label in found or right not in (None, label):
            continue
        if _sure(said, label, SURE) and all(_sure(other, label, SURE / 2) for other in others):
            found[label] = Golden(expect=labels[label], prompt=text)
    return list(found.values())[:ENOUGH]


def _sure(logits: Rows, label: int, margin: float) -> bool:
    return int(logits.argmax()) == label and margin_of_first(logits) >= margin


def _accuracy(rows: Rows, labels: Sequence[int | None]) -> Accuracy | None:
    right = known_right(rows, labels)
    return Accuracy(sum(right), len(right)) if right else None

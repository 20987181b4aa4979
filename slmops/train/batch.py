"""Some samples side by side, as a model reads them.

Law: what is padding is never learned, and no token that is learned is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slmops.train.samples import Samples


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples padded on the right to one length."""

    ids: torch.Tensor
    """[samples, length], int64."""
    mask: torch.Tensor
    """[samples, length], bool: what is no padding."""
    learned: torch.Tensor
    """[samples, length], bool: tokens that are to be foretold from those before them."""
    labels: torch.Tensor | None
    """[samples], int64, of classifiers."""
    samples: Samples
    places: tuple[int, ...]
    """Which samples these are."""

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        ids, mask, learned = (each.to(device) for each in (self.ids, self.mask, self.learned))
        return Batch(ids, mask, learned, labels, self.samples, self.places)

    @property
    def count(self) -> int:
        """Return how many things are to be learned: tokens, or for classifiers labels."""
        return len(self.places) if self.labels is not None else int(self.learned.sum())


def lay(samples: Samples, places: Sequence[int], padding: int) -> Batch:
    """Return the samples at `places` as a batch; `padding` is the id that fills it up."""
    parts = [samples.part(place) for place in places]
    width = max((part.stop - part.start for part in parts), default=0)
    ids = torch.full((len(parts), width), padding)
    mask = torch.zeros(len(parts), width, dtype=torch.bool)
    learned = torch.zeros(len(parts), width, dtype=torch.bool)
    for row, part in enumerate(parts):
        length = part.stop - part.start
        ids[row, :length] = torch.from_numpy(samples.ids[part]).long()
        mask[row, :length] = True
        learned[row, :length] = torch.from_numpy(samples.learned[part])
    labels = None if samples.labels is None else torch.from_numpy(samples.labels[list(places)]).long()
    return Batch(ids, mask, learned, labels, samples, tuple(places))

"""Which samples a model learns and which it is validated on.

Pure. Laws: what is held out depends on what the samples say, not on their order or on how often they
come; no two samples that say the same lie on different sides. Windows of one long text may: where that
matters, a file of its own is the better validation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slmops import digest
from slmops.errors import DocumentError
from slmops.train.samples import Samples

SHARE = 0.05
"""Of the samples, held out."""
LEAST, MOST = 8, 512
"""Samples held out, unless that were more than half of them."""


def split(samples: Samples, share: float = SHARE) -> tuple[Samples, Samples]:
    """Return what is learned and what is held out, each of the latter once.

    Raises DocumentError unless there are at least two different samples.
    """
    names = _names(samples)
    different = sorted({name: place for place, name in reversed(list(enumerate(names)))}.items())
    if len(different) < 2:  # noqa: PLR2004 - one on either side
        raise DocumentError(
            f"expected two different samples at least, to learn and to validate with, got {len(different)}",
            remedy="Give more data.",
        )
    count = min(max(round(len(different) * share), LEAST), MOST, len(different) // 2)
    held = dict(different[:count])
    kept = [place for place, name in enumerate(names) if name not in held]
    return take(samples, kept), take(samples, sorted(held.values()))


def without(samples: Samples, others: Samples) -> Samples:
    """Return the samples that are none of `others`; raise DocumentError when none is left."""
    known = set(_names(others))
    kept = [place for place, name in enumerate(_names(samples)) if name not in known]
    if not kept:
        raise DocumentError(
            "everything there is to learn is held out to validate with",
            remedy="Give data of which the validation file has not everything.",
        )
    return take(samples, kept)


def take(samples: Samples, places: Sequence[int]) -> Samples:
    """Return the samples at `places`, in that order."""
    chosen = [samples.part(place) for place in places]
    return Samples(
        np.concatenate([samples.ids[part] for part in chosen]),
        np.concatenate([samples.learned[part] for part in chosen]),
        np.cumsum([0, *(part.stop - part.start for part in chosen)], dtype=np.int64),
        None if samples.labels is None else samples.labels[list(places)],
    )


def _names(samples: Samples) -> list[str]:
    """Return what tells samples apart: their tokens, whatever is learned of them."""
    return [digest.of_bytes(samples.ids[samples.part(place)].tobytes()) for place in range(len(samples))]

"""Read the text by which it is known what may be cut, and hold some of it back to weigh cuts with.

Of files, or what the model itself writes, so that no corpus is needed.

Laws: nothing that is held back is among what is watched; the same files, or the same model and seed, give
the same text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slmops.build import classifier
from slmops.build.family import context_of
from slmops.build.isolate import Progress
from slmops.build.labelled_lines import read_lines
from slmops.build.measure import write_story
from slmops.build.open_model import TorchModel
from slmops.build.phrase import CheckpointPhrasing, Phrasing
from slmops.build.read_labelled import Reader, labelled
from slmops.build.sketch import Sketch
from slmops.build.texts import read_text, spread
from slmops.errors import BuildError, DocumentError
from slmops.train.read_samples import read_samples
from slmops.train.samples import Samples, collect

LENGTH = 256
"""Tokens of a sample at most."""
TOKENS, WRITTEN = 16_384, 4096
"""Tokens read of files, and written where there are none, unless otherwise asked."""
HELD = 4
"""Every so-manieth sample is held back."""
LEAST = 2
"""Samples at least: one to watch, one to weigh with."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was read."""

    watched: Samples
    held: Samples
    held_bytes: tuple[int, ...]
    """Of text that each sample held back has in what is foretold of it; none for classifiers."""
    said: str
    """Where it is from."""


def read_calibration(
    drawn: Sketch, model: Any, files: Sequence[Path], tokens: int | None, progress: Progress
) -> Calibration:
    """Return text for `model`, whose words are those of `drawn`; of `files`, else of its own writing.

    Raises DocumentError for files that hold too little, and for a text classifier without any.
    """
    if classifier.is_classifier(drawn.config):
        return _labelled(drawn, files, tokens or TOKENS)
    phrasing = CheckpointPhrasing(drawn)
    length = min(LENGTH, context_of(drawn.architecture, drawn.config))
    if files:
        end = drawn.stop_ids[0] if drawn.stop_ids else None
        found = _some(read_samples(files, phrasing, length=length, end=end).samples, tokens or TOKENS)
        said = ", ".join(file.name for file in files)
    else:
        found = _write(model, phrasing, length, tokens or WRITTEN, progress)
        said = "the model's own writing"
    return _apart(found, said, phrasing)


def _labelled(drawn: Sketch, files: Sequence[Path], tokens: int) -> Calibration:
    if not files:
        raise DocumentError(
            "a text classifier writes no text of its own to be watched with",
            remedy="Give --calibration a file of texts of the kind it reads, one a line.",
        )
    labels, most = classifier.labels_of(drawn.config), classifier.context_of(drawn.config)
    lines = itertools.chain.from_iterable(read_lines(read_text(file), str(file)) for file in files)
    texts = [each for each in labelled(lines, labels, Reader(drawn.words())) if len(each.ids) <= most]
    ids = ((each.ids, [False] * len(each.ids)) for each in texts)
    found = collect(ids, [each.label or 0 for each in texts])
    return _apart(_some(found, tokens), ", ".join(file.name for file in files), None)


def _write(model: Any, phrasing: Phrasing, length: int, tokens: int, progress: Progress) -> Samples:
    if not phrasing.begin_ids:
        raise BuildError("the model names no token to begin a text with", remedy="Give a --calibration file.")
    threads, random, written = torch.get_num_threads(), np.random.default_rng(0), list[list[int]]()
    told = TorchModel(model)
    while (left := tokens - sum(map(len, written))) > 0:
        story = write_story(
            told, phrasing.begin_ids, min(length, max(left, LEAST)), phrasing.stop_ids, random
        )
        written.append(story)
        progress(f"letting the model write {tokens} tokens", 1 - left / tokens)
    # Writing is done with as few threads as a small model is worth; what comes after may want more.
    torch.set_num_threads(threads)
    return collect((ids, [True] * len(ids)) for ids in written)


def _some(samples: Samples, tokens: int) -> Samples:
    """Return samples from all over, in their order, until there are so many tokens."""
    chosen, left = list[int](), tokens
    for place in spread(len(samples)):
        chosen.append(place)
        left -= int(samples.lengths[place])
        if left <= 0:
            break
    return _those(samples, sorted(chosen))


def _those(samples: Samples, places: Sequence[int]) -> Samples:
    parts = [samples.part(place) for place in places]
    labels = None if samples.labels is None else samples.labels[list(places)].tolist()
    return collect(((samples.ids[part].tolist(), samples.learned[part].tolist()) for part in parts), labels)


def _apart(samples: Samples, said: str, phrasing: Phrasing | None) -> Calibration:
    if len(samples) < LEAST:
        raise DocumentError(
            f"{said}: expected text for {LEAST} samples at least, one to watch and one to weigh cuts with",
            remedy="Give more text of the kind the model is for.",
        )
    every = min(HELD, len(samples))
    held = _those(samples, range(0, len(samples), every))
    watched = _those(samples, [place for place in range(len(samples)) if place % every])
    counted = () if phrasing is None else tuple(_bytes(held, place, phrasing) for place in range(len(held)))
    return Calibration(watched, held, counted, said)


def _bytes(samples: Samples, place: int, phrasing: Phrasing) -> int:
    part = samples.part(place)
    ids, learned = samples.ids[part].tolist(), samples.learned[part]
    return len(phrasing.text([id_ for id_, counts in zip(ids, learned, strict=True) if counts]).encode())

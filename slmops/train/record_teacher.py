"""Let a teacher read samples once and keep what it says, in a process of its own that then ends.

Laws: what is recorded is not recorded again; a recording that is ended, however, goes on from the last
whole shard to the same bytes; any number of processes may record the same samples at a time, and none
waits for another: each begins with a share of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, isolate
from slmops.train import top_k
from slmops.train.agreement import Agreement
from slmops.train.batch import lay
from slmops.train.open_trainable import load_weights
from slmops.train.samples import Samples
from slmops.train.teacher import Teacher
from slmops.train.teacher_cache import TeacherCache, sizes
from slmops.train.top_k import TopK

LOGITS = 1 << 25
"""Numbers that a batch of logits has, about: 128 MiB."""
ROWS = 1 << 19
"""Numbers from which the likeliest are taken at a time."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Who is to be recorded, and how."""

    teacher: Checkpoint
    agreement: Agreement
    outcomes: int
    """Of each distribution."""
    k: int
    temperature: float
    process: tuple[int, int]
    """Which process this is, of how many."""


def record_teacher(asked: Recording, caches: Sequence[TeacherCache], progress: Progress) -> None:
    """Fill the caches; raise BuildError when the disk does not take what the teacher says."""
    missing = [(cache, shards) for cache in caches if (shards := cache.missing())]
    if missing:
        isolate("the teacher", _record, progress, asked, missing)


def _record(progress: Progress, asked: Recording, missing: list[tuple[TeacherCache, list[int]]]) -> None:
    teacher = Teacher(load_weights(asked.teacher, progress), asked.agreement)
    for cache, shards in missing:
        what = f"reading {cache.distributions:,} tokens with {asked.teacher.folder.name}"
        for done, shard in enumerate(_order(shards, asked.process), len(cache) - len(shards)):
            progress(what, done / len(cache))
            if not cache.has(shard):
                said = _read(teacher, asked, cache.samples, cache.places(shard))
                cache.keep(shard, list(said), asked.outcomes)
        progress(what, 1.0)


def _order(shards: list[int], process: tuple[int, int]) -> Iterator[int]:
    """Yield a process's own share, then what is the others', from its end: they may have come so far."""
    number, count = process
    yield from shards[number::count]
    yield from reversed([shard for place, shard in enumerate(shards) if place % count != number])


def _read(teacher: Teacher, asked: Recording, samples: Samples, places: range) -> Iterator[TopK]:
    """Yield what the teacher says of each sample; equal for equal shards, whenever it is asked."""
    generator, device = torch.Generator().manual_seed(places.start), _device(asked.process[0])
    rows = sizes(samples)
    width = int(asked.teacher.config["vocab_size"])
    for group in _groups(samples.lengths, places, LOGITS // width):
        logits = teacher.logits(lay(samples, group, padding=0).to(device))
        for of_sample in logits.split(rows[group].tolist()):
            some = of_sample.split(max(1, ROWS // asked.outcomes))
            yield top_k.join([top_k.select(one, asked.k, generator, asked.temperature) for one in some])


def _groups(lengths: NDArray[np.int64], places: range, most: int) -> Iterator[list[int]]:
    """Yield the samples of a shard in their order, as many at a time as make `most` tokens with padding."""
    group, longest = list[int](), 0
    for place in places:
        longest = max(longest, int(lengths[place]))
        if group and (len(group) + 1) * longest > most:
            yield group
            group, longest = [], int(lengths[place])
        group.append(place)
    yield group


def _device(process: int) -> torch.device:
    count = torch.cuda.device_count()
    return torch.device("cuda", process % count) if count else torch.device("cpu")

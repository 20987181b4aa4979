"""What a teacher said of some samples, on disk: for each sample its distributions, found by its place.

The door to a folder. Samples lie in shards of about SHARD distributions, in their order; a shard is a
file: a checksum, where each sample begins, and then the samples as `top_k` writes them. They are read
one by one, whole files are never in memory.

Laws: a shard that is found is whole; an interrupted one leaves nothing to be found; one that has rotted
is taken for missing; equal samples said by an equal teacher in an equal way have an equal folder.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from slmops import digest as digests
from slmops.errors import BuildError
from slmops.train import top_k
from slmops.train.samples import Samples
from slmops.train.top_k import TopK

SHARD = 16_384
"""Distributions in a shard, about: what is lost when a recording is ended."""
_HEAD = struct.Struct("<8sII")
_MAGIC = b"slmopsT\x01"
_BLOCK = 1 << 20


class TeacherCache:
    """What a teacher said of `samples`, under a folder that many may share."""

    def __init__(self, folder: Path, samples: Samples, said_by: Sequence[str]) -> None:
        """Use the part of `folder` that belongs to these samples and to `said_by`: who, and how."""
        told = "\n".join([*said_by, samples.digest, f"{top_k.VERSION} {top_k.COVER} {top_k.STEP} {SHARD}"])
        self.folder = folder / digests.hexdigits(digests.of_pieces([told.encode()]))
        self.samples, rows = samples, sizes(samples)
        shards = (np.cumsum(rows) - rows) // SHARD
        self._starts: NDArray[np.int64] = np.flatnonzero(np.diff(shards, prepend=-1, append=-1))
        self.distributions = int(rows.sum())
        self._indices = dict[int, NDArray[np.int64]]()

    def __len__(self) -> int:
        """Return how many shards there are, recorded or not."""
        return len(self._starts) - 1

    def places(self, shard: int) -> range:
        """Return which samples a shard holds."""
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    def has(self, shard: int) -> bool:
        """Return whether a shard is recorded; whether it is whole, `missing` says."""
        return self._file(shard).is_file()

    def missing(self) -> list[int]:
        """Return the shards that are to be recorded; those that have rotted are removed."""
        return [shard for shard in range(len(self)) if not self._is_whole(shard)]

    def keep(self, shard: int, said: Sequence[TopK], outcomes: int) -> None:
        """Write a shard: what was said of each of its samples, over so many outcomes.

        Raises BuildError when the disk does not take it.
        """
        coded = [top_k.encode(one, outcomes) for one in said]
        index = np.cumsum([0, *map(len, coded)], dtype="<i8").tobytes()
        body = b"".join([index, *coded])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(shard, _HEAD.pack(_MAGIC, zlib.crc32(body), len(coded)) + body)
        except OSError as error:
            raise BuildError(
                f"{self.folder} does not take what the teacher says: {error.strerror or error}",
                remedy="Make room on its disk and run the same command again: what was recorded is kept. "
                "Or do without (cache: no): teacher and student then share the memory.",
            ) from error

    def _write(self, shard: int, data: bytes) -> None:
        beginnings = f".{shard:06}-"
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=beginnings, delete=False) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(self._file(shard))
        except FileNotFoundError:
            # Who has finished the same shard meanwhile has removed this one.
            if not self.has(shard):
                raise
        finally:
            for left in self.folder.glob(f"{beginnings}*"):
                left.unlink(missing_ok=True)

    def said(self, place: int) -> TopK:
        """Return what the teacher said of one sample. Raises BuildError where it was not recorded."""
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        try:
            with self._file(shard).open("rb") as file:
                first, last = self._bounds(file, shard)[place - int(self._starts[shard]) :][:2].tolist()
                file.seek(first)
                return top_k.decode(file.read(last - first))
        except OSError as error:
            raise BuildError(
                f"{self._file(shard)} cannot be read: {error.strerror or error}",
                remedy="Run the same command again: what is missing is recorded again.",
            ) from error

    @property
    def nbytes(self) -> int:
        """Return the bytes that the recorded shards take on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*.top"))

    def _bounds(self, file: BinaryIO, shard: int) -> NDArray[np.int64]:
        """Return where in its file each sample of a shard begins, and where the last one ends."""
        if shard not in self._indices:
            data = file.read(_HEAD.size + 8 * (len(self.places(shard)) + 1))
            self._indices[shard] = np.frombuffer(data, "<i8", offset=_HEAD.size) + len(data)
        return self._indices[shard]

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:06}.top"

    def _is_whole(self, shard: int) -> bool:
        file = self._file(shard)
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            head, found = stream.read(_HEAD.size), 0
            while block := stream.read(_BLOCK):
                found = zlib.crc32(block, found)
        whole = head == _HEAD.pack(_MAGIC, found, len(self.places(shard)))
        if not whole:
            file.unlink()
        return whole


def sizes(samples: Samples) -> NDArray[np.int64]:
    """Return how many distributions each sample has: one a learned token, or of classifiers one."""
    if samples.labels is not None:
        return np.ones(len(samples), np.int64)
    before = np.concatenate([[0], np.cumsum(samples.learned, dtype=np.int64)])
    return np.diff(before[samples.starts])

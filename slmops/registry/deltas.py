"""Deltas between files that the registry keeps: made once, proved by decoding, kept beside the blobs.

    REGISTRY/deltas/<base>-<target>.delta     what turns one file into the other
    REGISTRY/deltas/<base>-<target>.whole     says that the whole file is no larger

They are a cache: whoever removes the folder loses time alone. Laws: a delta that is offered was decoded here
to the very bytes of its target; it is smaller than the target.
"""

import fcntl
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.manifest import Artifact, Blob
from slmops.errors import IntegrityError, MissingPartError, install_line
from slmops.registry.layout import Layout

SMALLEST = 16 << 10
"""Bytes of a file below which a delta is not worth a decoder's start."""


@dataclass(frozen=True)
class Delta:
    """What turns the file called `base` into the one called `target`."""

    base: str
    target: str
    path: Path
    digest: str
    size: int


class Deltas:
    """The deltas beside a registry's blobs."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.folder = layout.folder / "deltas"

    def base(self, slots: Iterable[str], name: str, target: Blob) -> Blob | None:
        """Return the file that `name` was in the first of these slots that the registry knows too.

        None when there is none, when it is the target itself, or when a delta would not be worth it.
        """
        if target.size < SMALLEST:
            return None
        for slot in slots:
            found = dict(self._files(slot)).get(name)
            if found is not None and self.layout.path(found.digest).is_file():
                return None if found.digest == target.digest else found
        return None

    def make(self, base: Blob, target: Blob) -> Delta | None:
        """Return the delta between two files, making it on first use; None when it would not be smaller.

        Raise MissingPartError when numpy is not installed.
        """
        found = self._kept(base, target)
        if found is None:
            with self._locked():
                found = self._kept(base, target) or self._make(base, target)
        if found.suffix == _WHOLE:
            return None
        return Delta(base.digest, target.digest, found, digests.of_file(found), found.stat().st_size)

    def strays(self, reached: Collection[str]) -> list[Path]:
        """Return the deltas whose base or target is none of these digests, half-made ones among them."""
        here = {digests.hexdigits(digest)[:_MARK] for digest in reached}
        made = [*self.folder.glob(f"*{_DELTA}"), *self.folder.glob(f"*{_WHOLE}")]
        lost = [path for path in made if not set(path.stem.split("-")) <= here]
        return sorted([*lost, *self.folder.glob(f"{_MAKING}*/*")])

    def _files(self, slot: str) -> tuple[tuple[str, Blob], ...]:
        """Return the files of an artifact by its slot's name; none when the registry has no such artifact."""
        try:
            data = self.layout.path(f"sha256:{slot}").read_bytes()
            built: Artifact = manifest.parse_artifact(data)
        except (IntegrityError, OSError):
            return ()
        return built.files

    def _kept(self, base: Blob, target: Blob) -> Path | None:
        for suffix in (_DELTA, _WHOLE):
            path = self.folder / (_stem(base, target) + suffix)
            if path.is_file():
                return path
        return None

    def _make(self, base: Blob, target: Blob) -> Path:
        try:
            from slmops.delta.make_delta import make_delta  # noqa: PLC0415 - needs numpy
        except ModuleNotFoundError as error:
            raise MissingPartError(
                f"deltas need {error.name}, which is not installed", remedy=install_line("build")
            ) from error
        place = self.folder / (_stem(base, target) + _DELTA)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=_MAKING) as room:
            made = Path(room) / "delta"
            if make_delta(self.layout.path(base.digest), self.layout.path(target.digest), made).worth_it:
                with made.open("rb") as file:
                    os.fsync(file.fileno())
                return made.rename(place)
        whole = place.with_suffix(_WHOLE)
        whole.touch()
        return whole

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make one delta at a time: it takes a core, and who waits may find it made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_DELTA, _WHOLE, _MAKING = ".delta", ".whole", ".making-"
_MARK = 32
"""Hexadecimal digits of a digest in a delta's name."""


def _stem(base: Blob, target: Blob) -> str:
    return "-".join(digests.hexdigits(blob.digest)[:_MARK] for blob in (base, target))

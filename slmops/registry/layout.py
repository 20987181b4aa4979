"""A store of blobs on disk: an OCI image layout.

    FOLDER/oci-layout
    FOLDER/index.json                 references to release indexes, signatures and channels
    FOLDER/blobs/sha256/<hex>         content, named by its digest

Everything is written to a temporary file, synced and renamed; a name is set only after all it
names is there, and dropped before any of it goes. Who writes or reads for long holds `in_use`; who sweeps
holds `alone`. Source: github.com/opencontainers/image-spec, image-layout.md.
"""

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from slmops import digest as digests
from slmops.artifact.manifest import Blob
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import index as indexes
from slmops.registry.index import Index

_INCOMING, _PART = ".incoming-", ".part-"


class Layout:
    """An OCI image layout in `folder`, made on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Return where the blob lies, or would lie."""
        return self.blobs / digests.hexdigits(digest)

    def put(self, pieces: Iterable[bytes], media_type: str) -> Blob:
        """Store content; return what it is called. What is there already is written anew, which heals rot."""
        with self._temporary() as (descriptor, path):
            size = 0

            def counted() -> Iterator[bytes]:
                nonlocal size
                for piece in pieces:
                    _write_all(descriptor, piece)
                    size += len(piece)
                    yield piece

            with self._room():
                digest = digests.of_pieces(counted())
                os.fsync(descriptor)
            self._settle(path, digest)
        return Blob(media_type, digest, size)

    def receive(self, blob: Blob, read: Callable[[int], Iterable[bytes]]) -> None:
        """Store a blob from elsewhere; `read(start)` yields its bytes from there on.

        What had come when `read` raised stays as a part, and is gone on with the next time. Raise
        IntegrityError when fewer, more or other bytes come than the digest says.
        """
        self.blobs.mkdir(parents=True, exist_ok=True)
        part = self.blobs / (_PART + digests.hexdigits(blob.digest))
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.has(blob):
                part.unlink(missing_ok=True)
                return
            try:
                with self._room():
                    digest = self._take(blob, file, read)
            except IntegrityError:
                part.unlink()
                raise
            if digest != blob.digest:
                part.unlink()
                raise IntegrityError(f"blob {digests.short(blob.digest)}: {digest} came in its place")
            os.fsync(file.fileno())
            self._settle(part, blob.digest)

    def _take(self, blob: Blob, file: BinaryIO, read: Callable[[int], Iterable[bytes]]) -> str:
        """Append to a part what it lacks of a blob, never more; return the digest of all."""
        state, size = hashlib.sha256(), 0
        file.seek(0)
        for piece in digests.pieces(file):
            state.update(piece)
            size += len(piece)
        for piece in read(size) if size < blob.size else ():
            size += len(piece)
            if size > blob.size:
                break
            file.write(piece)
            state.update(piece)
        file.flush()
        if size > blob.size:
            raise IntegrityError(
                f"blob {digests.short(blob.digest)} is said to be {blob.size} bytes, and more came"
            )
        if size < blob.size:
            raise IntegrityError(f"blob {digests.short(blob.digest)} ended after {size} of {blob.size} bytes")
        return "sha256:" + state.hexdigest()

    def has(self, blob: Blob) -> bool:
        """Say whether a blob of that digest and size is there; what is in it, `check` says."""
        path = self.path(blob.digest)
        return path.is_file() and path.stat().st_size == blob.size

    def get(self, blob: Blob) -> bytes:
        """Return a small blob's content, verified."""
        try:
            data = self.path(blob.digest).read_bytes()
        except FileNotFoundError as error:
            raise IntegrityError(
                f"blob {digests.short(blob.digest)} is missing from {self.folder}"
            ) from error
        self._compare(blob, digests.of_bytes(data), len(data))
        return data

    def check(self, blob: Blob) -> None:
        """Raise IntegrityError unless the blob is there and is what its digest says."""
        path = self.path(blob.digest)
        if not path.is_file():
            raise IntegrityError(f"blob {digests.short(blob.digest)} is missing from {self.folder}")
        self._compare(blob, digests.of_file(path), path.stat().st_size)

    def index(self) -> Index:
        """Return the document of all names."""
        path = self.folder / indexes.INDEX_FILE
        try:
            return indexes.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return indexes.empty()

    def names(self) -> dict[str, Blob]:
        """Return every name in the layout and the blob it stands for."""
        return indexes.names(self.index())

    def set_name(self, name: str, blob: Blob, artifact_type: str) -> None:
        """Let `name` stand for `blob`. A name never moves: raise ReleaseError if it stands for another."""
        with self._locked():
            self.require_free(name, blob)
            if name not in self.names():
                self._write_index(indexes.named(self.index(), name, blob, artifact_type))

    def move_name(self, name: str, blob: Blob, artifact_type: str, said: Mapping[str, str]) -> None:
        """Let `name` stand for `blob` from now on, whatever it stood for; `said` are its annotations."""
        with self._locked():
            if self.names().get(name) != blob:
                self._write_index(indexes.named(self.index(), name, blob, artifact_type, said))

    def drop_names(self, names: Collection[str], said: Mapping[str, str]) -> None:
        """Let these names stand for nothing; their blobs stay until somebody sweeps.

        `said` are annotations of the index itself, by which it remembers something of them.
        """
        with self._locked():
            self._write_index(indexes.remembering(indexes.without(self.index(), names), said))

    def require_free(self, name: str, blob: Blob) -> None:
        """Raise ReleaseError if `name` stands for another blob than this."""
        held = self.names().get(name)
        if held is not None and held.digest != blob.digest:
            raise ReleaseError(
                f"{name} is already in the registry as {digests.short(held.digest)}, "
                f"and this would be {digests.short(blob.digest)}; a version never changes",
                remedy="Choose a new --version.",
            )

    def strays(self, reached: Collection[str]) -> list[Path]:
        """Return the files that hold none of the digests in `reached`, half-written ones among them."""
        kept = {digests.hexdigits(digest) for digest in reached}
        there = sorted(self.blobs.iterdir()) if self.blobs.is_dir() else []
        return [path for path in there if path.name not in kept]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep others from sweeping; any number may hold this at once, and it ends with the process."""
        with self._flocked(".in-use", fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one here; raise ReleaseError when somebody publishes, pulls or deploys."""
        try:
            with self._flocked(".in-use", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError as error:
            raise ReleaseError(
                f"the registry in {self.folder} is in use: something is published, pulled or deployed",
                remedy="Wait until that is done, and run the same again.",
            ) from error

    def _write_index(self, index: Index) -> None:
        self._write(self.folder / indexes.LAYOUT_FILE, indexes.LAYOUT)
        self._write(self.folder / indexes.INDEX_FILE, indexes.render(index))

    def _write(self, path: Path, data: bytes) -> None:
        with self._temporary() as (descriptor, temporary):
            _write_all(descriptor, data)
            os.fsync(descriptor)
            temporary.chmod(0o644)
            temporary.rename(path)
            _sync(path.parent)

    def _settle(self, path: Path, digest: str) -> None:
        """Give a whole, synced file its name."""
        path.chmod(0o444)
        path.rename(self.path(digest))
        _sync(self.blobs)

    def _compare(self, blob: Blob, digest: str, size: int) -> None:
        if (digest, size) != (blob.digest, blob.size):
            raise IntegrityError(
                f"blob {digests.short(blob.digest)} in {self.folder} has rotted: expected {blob.size} bytes "
                f"of {blob.digest}, got {size} bytes of {digest}",
                remedy=f"Remove {self.path(blob.digest)} and build or publish the release again.",
            )

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ReleaseError(
                f"the registry in {self.folder} cannot be written: the disk is full",
                remedy="Free some space (`slmops release gc`; `slmops cache clear` frees what builds have "
                "kept), or set SLMOPS_HOME to another disk.",
            ) from error

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        self.blobs.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.blobs, prefix=_INCOMING)
        try:
            yield descriptor, Path(name)
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._flocked(".lock", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _flocked(self, name: str, how: int) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("w") as lock:
            fcntl.flock(lock, how)
            yield


def _sync(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

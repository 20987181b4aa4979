"""A store of blobs on disk: an OCI image layout.

    FOLDER/oci-layout
    FOLDER/index.json                 references to release indexes and signatures
    FOLDER/blobs/sha256/<hex>         content, named by its digest

Everything is written to a temporary file, synced and renamed; a name is set only after all it
names is there. Source: github.com/opencontainers/image-spec, image-layout.md.
"""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact.manifest import Blob, canonical
from slmops.errors import IntegrityError, ReleaseError

REF_KEY = "org.opencontainers.image.ref.name"


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
        self.blobs.mkdir(parents=True, exist_ok=True)
        with self._temporary() as (descriptor, path):
            size = 0

            def counted() -> Iterator[bytes]:
                nonlocal size
                for piece in pieces:
                    _write_all(descriptor, piece)
                    size += len(piece)
                    yield piece

            try:
                digest = digests.of_pieces(counted())
                os.fsync(descriptor)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise ReleaseError(
                    f"the registry in {self.folder} cannot be written: the disk is full",
                    remedy="Free some space (`slmops cache clear` frees what builds have kept), or set "
                    "SLMOPS_HOME to another disk.",
                ) from error
            path.chmod(0o444)
            path.rename(self.path(digest))
            _sync(self.blobs)
        return Blob(media_type, digest, size)

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

    def names(self) -> dict[str, Blob]:
        """Return every name in the layout and the blob it stands for."""
        entries = self._index()["manifests"]
        return {
            entry["annotations"][REF_KEY]: Blob(entry["mediaType"], entry["digest"], entry["size"])
            for entry in entries
            if REF_KEY in entry.get("annotations", {})
        }

    def set_name(self, name: str, blob: Blob, artifact_type: str) -> None:
        """Let `name` stand for `blob`. A name never moves: raise ReleaseError if it stands for another."""
        with self._locked():
            self.require_free(name, blob)
            if name not in self.names():
                self._write_index(name, blob, artifact_type)

    def require_free(self, name: str, blob: Blob) -> None:
        """Raise ReleaseError if `name` stands for another blob than this."""
        held = self.names().get(name)
        if held is not None and held.digest != blob.digest:
            raise ReleaseError(
                f"{name} is already in the registry as {digests.short(held.digest)}, "
                f"and this would be {digests.short(blob.digest)}; a version never changes",
                remedy="Choose a new --version.",
            )

    def _write_index(self, name: str, blob: Blob, artifact_type: str) -> None:
        index = self._index()
        entry = {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
        index["manifests"].append({**entry, "artifactType": artifact_type, "annotations": {REF_KEY: name}})
        self._write(self.folder / "oci-layout", canonical({"imageLayoutVersion": "1.0.0"}))
        self._write(self.folder / "index.json", canonical(index))

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        try:
            index = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [],
            }
        except ValueError as error:
            raise IntegrityError(f"{path} is not JSON: {error}") from error
        if not _is_index(index):
            raise IntegrityError(f"{path} is no OCI image index")
        return dict(index)

    def _write(self, path: Path, data: bytes) -> None:
        with self._temporary() as (descriptor, temporary):
            _write_all(descriptor, data)
            os.fsync(descriptor)
            temporary.chmod(0o644)
            temporary.rename(path)
            _sync(path.parent)

    def _compare(self, blob: Blob, digest: str, size: int) -> None:
        if (digest, size) != (blob.digest, blob.size):
            raise IntegrityError(
                f"blob {digests.short(blob.digest)} in {self.folder} has rotted: expected {blob.size} bytes "
                f"of {blob.digest}, got {size} bytes of {digest}",
                remedy=f"Remove {self.path(blob.digest)} and build or publish the release again.",
            )

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        self.blobs.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.blobs, prefix=".incoming-")
        try:
            yield descriptor, Path(name)
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_index(said: Any) -> bool:
    entries = said.get("manifests") if isinstance(said, dict) else None
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("annotations", {}), dict)
        and {"mediaType", "digest", "size"} <= set(entry)
        for entry in entries
    )


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

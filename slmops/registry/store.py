"""Releases in any store that fsspec knows (S3, GCS, Azure, SFTP, WebDAV, ...), as an OCI image layout in it.

Blobs go first and the index last, so that whoever finds a name finds all it names. Object stores show a file
when it is whole; in stores made of files it is renamed into place. Such stores have no lock: two who push at
once may overwrite each other's index, so the name is looked for afterwards and written again if it is gone.
Source: filesystem-spec.readthedocs.io.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec  # type: ignore[import-untyped]

from slmops import digest as digests
from slmops.artifact.manifest import Blob
from slmops.errors import MissingPartError, RegistryError, ReleaseError, UnreachableError, UsageError
from slmops.registry import index as indexes
from slmops.registry import referrers
from slmops.registry.index import Index
from slmops.registry.remote import Remote, Source

_OF_FILES = {"sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "ftp", "webdav", "local", "file"}
"""Protocols whose half-written files can be seen."""
_TRIES = 5


@contextmanager
def open_store(url: str) -> Iterator[Remote]:
    """Give the store that a URL names; fsspec keeps its connections for the next who comes."""
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingPartError(f"{url}: {error}", remedy=f"{error}.") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: {error}",
            remedy="Give oci://host/repository, file:///folder, s3://bucket/folder, or another of fsspec's.",
        ) from error
    except OSError as error:
        # Some stores connect when they are opened.
        raise UnreachableError(
            f"{url} does not answer: {error}",
            remedy="Check host, port and credentials; expected oci://host/repository, file:///folder or "
            "s3://bucket/folder.",
        ) from error
    yield Store(files, path, url)


class Store:
    """An OCI image layout at `path` of an fsspec file system."""

    def __init__(self, files: Any, path: str, where: str) -> None:
        self._files, self._path, self.where = files, path.rstrip("/"), where

    def has(self, blob: Blob) -> bool:
        """Say whether a blob is there."""
        try:
            return bool(self._files.info(self._blob(blob))["size"] == blob.size)
        except FileNotFoundError:
            return False

    def send(self, blob: Blob, source: Source) -> None:
        """Store a blob."""
        self._write(self._blob(blob), source(0))

    def refer(self, blob: Blob, source: Source, subject: Blob) -> None:
        """Store a manifest that speaks of another one."""
        self.send(blob, source)
        self._set(referrers.name(subject, blob), blob, referrers.SIGNATURE_TYPE)

    def read(self, blob: Blob, start: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on."""
        try:
            with self._files.open(self._blob(blob), "rb") as file:
                file.seek(start)
                yield from digests.pieces(file)
        except FileNotFoundError as error:
            raise RegistryError(
                f"{self.where} has no {digests.short(blob.digest)}, which it names"
            ) from error
        except OSError as error:
            raise UnreachableError(f"{self.where}: {error}") from error

    def find(self, name: str) -> Blob | None:
        """Return what a name stands for."""
        return indexes.names(self._index()).get(name)

    def referrers(self, subject: Blob) -> list[Blob]:
        """Return the manifests that are named as speaking of `subject`."""
        return referrers.of(indexes.names(self._index()), subject)

    def name(self, name: str, blob: Blob, artifact_type: str) -> None:
        """Let a name stand for a blob: a version for ever, a channel until it moves."""
        held = self.find(name)
        if held is not None and held.digest != blob.digest and "@" not in name:
            raise ReleaseError(
                f"{self.where} has {digests.short(held.digest)} as {name}, and this would be "
                f"{digests.short(blob.digest)}; a version never changes",
                remedy="Push a new version, or to another place.",
            )
        self._set(name, blob, artifact_type)

    def _set(self, name: str, blob: Blob, artifact_type: str) -> None:
        for _ in range(_TRIES):
            index = self._index()
            if indexes.names(index).get(name) == blob:
                return
            self._write(f"{self._path}/{indexes.LAYOUT_FILE}", iter([indexes.LAYOUT]))
            new = indexes.named(index, name, blob, artifact_type)
            self._write(f"{self._path}/{indexes.INDEX_FILE}", iter([indexes.render(new)]))
        raise RegistryError(f"{self.where}: others write its index all the time; {name} is not in it")

    def _index(self) -> Index:
        self._files.invalidate_cache(self._path)
        path = f"{self._path}/{indexes.INDEX_FILE}"
        try:
            return indexes.parse(self._files.cat_file(path), f"{self.where}/{indexes.INDEX_FILE}")
        except FileNotFoundError:
            return indexes.empty()

    def _write(self, path: str, pieces: Iterator[bytes]) -> None:
        protocol = self._files.protocol
        of_files = bool(_OF_FILES & {*([protocol] if isinstance(protocol, str) else protocol)})
        place = path + ".incoming" if of_files else path
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            with self._files.open(place, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            if of_files:
                self._files.mv(place, path)
        except OSError as error:
            raise UnreachableError(f"{self.where}: {error}") from error

    def _blob(self, blob: Blob) -> str:
        return f"{self._path}/blobs/sha256/{digests.hexdigits(blob.digest)}"

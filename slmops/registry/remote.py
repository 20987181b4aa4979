"""Another place where releases are kept, and how a URL says which.

    oci://host[:port]/repository     an OCI registry; the version is the tag
    file:///folder                   an OCI image layout on this machine's disks
    s3://bucket/folder, ...          an OCI image layout in any store that fsspec knows

What a remote says is never believed here: who pulls compares digests and signatures.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from slmops.artifact.manifest import Blob

Source = Callable[[int], Iterator[bytes]]
"""What yields a blob's bytes from an offset on."""


class Remote(Protocol):
    """What push and pull ask of another place."""

    where: str

    def has(self, blob: Blob) -> bool:
        """Say whether a blob is there."""
        ...

    def send(self, blob: Blob, source: Source) -> None:
        """Store a blob; whoever finds it there finds all of it."""
        ...

    def refer(self, blob: Blob, source: Source, subject: Blob) -> None:
        """Store a manifest that speaks of another one, its subject, to be found by it."""
        ...

    def read(self, blob: Blob, start: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on; raise UnreachableError when the link breaks."""
        ...

    def find(self, name: str) -> Blob | None:
        """Return what a `name:version` or `name@channel` stands for there."""
        ...

    def referrers(self, subject: Blob) -> list[Blob]:
        """Return the manifests that say they speak of `subject`."""
        ...

    def name(self, name: str, blob: Blob, artifact_type: str) -> None:
        """Let a `name:version` or `name@channel` stand for a blob that is there."""
        ...

"""Releases in an OCI image layout on this machine's disks: a folder, a mounted share, a USB stick.

It knows nothing of the network. Law: what `find` names is there, whole.
"""

from collections.abc import Iterator

from slmops import digest as digests
from slmops.artifact.manifest import Blob
from slmops.registry import referrers
from slmops.registry.layout import Layout
from slmops.registry.remote import Source


class Folder:
    """An OCI image layout as another place for releases."""

    def __init__(self, layout: Layout, where: str) -> None:
        self.layout, self.where = layout, where

    def has(self, blob: Blob) -> bool:
        """Say whether a blob is there."""
        return self.layout.has(blob)

    def send(self, blob: Blob, source: Source) -> None:
        """Store a blob."""
        self.layout.receive(blob, source)

    def refer(self, blob: Blob, source: Source, subject: Blob) -> None:
        """Store a manifest that speaks of another one."""
        self.layout.receive(blob, source)
        self.layout.set_name(referrers.name(subject, blob), blob, referrers.SIGNATURE_TYPE)

    def read(self, blob: Blob, start: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on."""
        with self.layout.path(blob.digest).open("rb") as file:
            file.seek(start)
            yield from digests.pieces(file)

    def find(self, name: str) -> Blob | None:
        """Return what a name stands for."""
        return self.layout.names().get(name)

    def referrers(self, subject: Blob) -> list[Blob]:
        """Return the manifests that are named as speaking of `subject`."""
        return referrers.of(self.layout.names(), subject)

    def name(self, name: str, blob: Blob, artifact_type: str) -> None:
        """Let a name stand for a blob: a version for ever, a channel until it moves."""
        if "@" in name:
            self.layout.move_name(name, blob, artifact_type, {})
        else:
            self.layout.set_name(name, blob, artifact_type)

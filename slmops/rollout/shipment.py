"""What a device is sent of an artifact: each file that it lacks, whole or as what it differs by.

It does not know how anything is sent. Laws: a file that the device holds is not sent; with more deltas to
choose from a shipment is never larger.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from slmops.artifact.manifest import Artifact, Blob
from slmops.registry.deltas import Delta

Offers = Mapping[str, Sequence[Delta]]
"""Deltas by the digest of what they make."""


@dataclass(frozen=True)
class Item:
    """A file to send."""

    name: str
    blob: Blob
    delta: Delta | None = None
    """What it differs by from a file that the device holds."""

    @property
    def size(self) -> int:
        """Return the bytes on the wire."""
        return self.blob.size if self.delta is None else self.delta.size


def shipment(built: Artifact, held: Collection[str], offers: Offers) -> tuple[Item, ...]:
    """Return what to send of an artifact to a device that holds files of these digests."""
    return tuple(
        Item(name, blob, _smallest(offers.get(blob.digest, ()), blob, held))
        for name, blob in built.files
        if blob.digest not in held
    )


def _smallest(deltas: Sequence[Delta], target: Blob, held: Collection[str]) -> Delta | None:
    useful = [delta for delta in deltas if delta.base in held and delta.size < target.size]
    return min(useful, key=lambda delta: delta.size, default=None)

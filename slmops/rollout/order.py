"""What a rollout is to bring: a release, and for each device the artifact it gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmops import digest as digests
from slmops.artifact import manifest
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact
from slmops.errors import ReleaseError
from slmops.fleet.inventory import Device
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed


@dataclass(frozen=True)
class Parcel:
    """An artifact ready to send: its slot, its manifest's bytes and where its files lie."""

    slot: str
    manifest: bytes
    artifact: Artifact
    description: Description
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Order:
    """A signed release and a parcel for each profile in it."""

    signed: Signed
    signers: str
    """Allowed-signers text: what a new device is told to accept."""
    parcels: Mapping[str, Parcel]

    def parcel(self, device: Device) -> Parcel:
        """Return what this device gets; raise ReleaseError when the release has nothing for it."""
        found = self.parcels.get(device.profile or "")
        if found is None:
            there = ", ".join(self.parcels)
            raise ReleaseError(
                f"{device.name}: {self.signed.release.reference} has no artifact for profile "
                f"{device.profile!r}; it has {there}",
                remedy=f"Build one: slmops quantize MODEL --profile {device.profile} ... as a new version.",
            )
        return found


def take(layout: Layout, signed: Signed, signers: str) -> Order:
    """Take a release out of the registry, every byte of it verified."""
    releases.verify(layout, signed, signers)
    parcels = {}
    for profile, entry in signed.release.artifacts:
        built = releases.artifact(layout, entry)
        parcels[profile] = Parcel(
            slot=digests.hexdigits(entry.blob.digest),
            manifest=manifest.render_artifact(built),
            artifact=built,
            description=releases.description(layout, built),
            files={name: layout.path(blob.digest) for name, blob in built.files},
        )
    return Order(signed, signers, parcels)

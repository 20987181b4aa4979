"""What a rollout is to bring: a release, for each device its artifact, and the runtime bundle for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from slmops import digest as digests
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact, Entry
from slmops.artifact.runtime import Platform, Runtime
from slmops.errors import ReleaseError
from slmops.fleet.inventory import AUTO, Device
from slmops.registry import catalog, runtimes
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.registry.release import Signed
from slmops.rollout.mandate import Mandate


@dataclass(frozen=True)
class Parcel:
    """An artifact ready to send: the release that lists it, its manifest's bytes and where its files lie."""

    signed: Signed
    key: str
    """What it stands under in its release: a profile, or a platform."""
    slot: str
    manifest: bytes
    artifact: Artifact
    files: Mapping[str, Path]


@dataclass(frozen=True)
class ModelParcel(Parcel):
    """An artifact that a daemon serves."""

    description: Description


@dataclass(frozen=True)
class RuntimeParcel(Parcel):
    """A runtime bundle that a daemon runs from."""

    description: Runtime


class Order:
    """A signed release, a parcel for each profile in it, and the runtime bundles that go with them."""

    def __init__(
        self, layout: Layout, signed: Signed, mandate: Mandate, parcels: Mapping[str, ModelParcel]
    ) -> None:
        self.signed, self.mandate, self.parcels = signed, mandate, parcels
        self._layout, self._lock = layout, Lock()
        self._runtimes: dict[tuple[str, Platform, str], RuntimeParcel | None] = {}

    def parcel(self, device: Device) -> ModelParcel:
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

    def runtime(self, device: Device, platform: Platform) -> RuntimeParcel | None:
        """Return the runtime bundle that this device's daemon is to run from, every byte of it verified.

        None where it runs from a Python of the device: where the fleet file says so, or says auto and the
        registry has no bundle for the platform. Raise ReleaseError when a bundle that was named is not there.
        """
        if device.bundle is None:
            return None
        asked = (device.bundle, platform, self.parcel(device).description.format)
        with self._lock:
            if asked not in self._runtimes:
                self._runtimes[asked] = self._take_runtime(*asked)
            return self._runtimes[asked]

    def _take_runtime(self, named: str, platform: Platform, model_format: str) -> RuntimeParcel | None:
        reference = None if named == AUTO else catalog.parse(named)
        try:
            chosen = runtimes.choose(self._layout, platform, [model_format], reference)
        except ReleaseError:
            if named == AUTO:
                return None
            raise
        releases.verify(self._layout, chosen.signed, self.mandate.trust)
        common = _common(self._layout, chosen.signed, chosen.platform, chosen.entry)
        return RuntimeParcel(*common, description=chosen.described)


def take(layout: Layout, signed: Signed, mandate: Mandate) -> Order:
    """Take a release out of the registry, every byte of it verified."""
    releases.verify(layout, signed, mandate.trust)
    parcels = {}
    for profile, entry in signed.release.artifacts:
        common = _common(layout, signed, profile, entry)
        built = releases.artifact(layout, entry)
        if runtimes.is_runtime(built):
            raise ReleaseError(
                f"{signed.release.reference} is a runtime bundle, not a release of a model",
                remedy="Give a model's (slmops release list); `runtime` in the fleet file names a bundle.",
            )
        parcels[profile] = ModelParcel(*common, description=releases.description(layout, built))
    return Order(layout, signed, mandate, parcels)


def _common(
    layout: Layout, signed: Signed, key: str, entry: Entry
) -> tuple[Signed, str, str, bytes, Artifact, dict[str, Path]]:
    built = releases.artifact(layout, entry)
    files = {name: layout.path(blob.digest) for name, blob in built.files}
    slot = digests.hexdigits(entry.blob.digest)
    return signed, key, slot, layout.get(entry.blob), built, files

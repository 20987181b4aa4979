"""Runtime bundles in the registry: put them there, list them, choose the one that a device gets.

A bundle is a release like a model's; its artifacts stand under platforms in place of profiles, and each
says what it is in its `runtime.json`. It does not know how bundles are built, nor where devices have them.

Laws: the choice is the newest bundle for a platform that serves what is asked; the same wheels are the same
artifact, whenever they were published.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slmops.artifact import manifest, runtime
from slmops.artifact.manifest import Artifact, Entry
from slmops.artifact.runtime import FILE_NAME, Platform, Runtime
from slmops.errors import ReleaseError
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout
from slmops.registry.release import Signed


@dataclass(frozen=True)
class Bundle:
    """A runtime bundle for one platform, as its release lists it."""

    signed: Signed
    platform: str
    entry: Entry
    artifact: Artifact
    described: Runtime

    @property
    def reference(self) -> str:
        """Return `name:version`."""
        return self.signed.release.reference


def publish(layout: Layout, folders: Mapping[str, Path], *, created: str, key: Path) -> Signed:
    """Store the bundle of each platform as one signed release; name and version are what they say.

    `created` is RFC 3339 in UTC, `key` is a release key.
    """
    said = {
        platform: runtime.parse((folder / FILE_NAME).read_bytes()) for platform, folder in folders.items()
    }
    first = next(iter(said.values()))
    if any((each.name, each.version) != (first.name, first.version) for each in said.values()):
        raise ReleaseError("one release, one name and version; these runtimes say several")
    if any(str(each.platform) != platform for platform, each in said.items()):
        raise ReleaseError("a runtime stands under its own platform; one of these says another")
    with layout.in_use():
        entries = tuple(
            (platform, _store(layout, folder, said[platform])) for platform, folder in folders.items()
        )
        reference = catalog.reference(first.name, first.version)
        return releases.seal(layout, reference, entries, created=created, key=key)


def bundles(layout: Layout, references: Iterable[Reference] | None = None) -> list[Bundle]:
    """Return the runtime bundles among these releases, or among all; by name, newest first."""
    chosen = releases.references(layout) if references is None else references
    return [bundle for each in chosen for bundle in _bundles(layout, releases.find(layout, each))]


def choose(
    layout: Layout, platform: Platform, formats: Iterable[str], reference: Reference | None = None
) -> Bundle:
    """Return the newest bundle for a platform that serves `formats`, or the one of `reference`.

    Raise ReleaseError when there is none.
    """
    wanted = set(formats)
    there = bundles(layout, None if reference is None else [reference])
    fitting = [
        bundle
        for bundle in there
        if bundle.platform == str(platform) and wanted <= set(bundle.described.provides)
    ]
    newest = max(
        fitting, key=lambda bundle: (bundle.signed.release.created, -there.index(bundle)), default=None
    )
    if newest is None:
        known = ", ".join(
            f"{b.reference} for {b.platform} ({', '.join(b.described.provides)})" for b in there
        )
        raise ReleaseError(
            f"{reference or 'the registry'} has no runtime for {platform} that serves "
            f"{' and '.join(sorted(wanted))}; it has: {known or 'none'}",
            remedy=f"Run `slmops runtime build --platform {platform}`.",
        )
    return newest


def is_runtime(artifact: Artifact) -> bool:
    """Say whether an artifact is a runtime bundle, and no model."""
    return FILE_NAME in dict(artifact.files)


def _bundles(layout: Layout, signed: Signed) -> list[Bundle]:
    found = [(name, entry, releases.artifact(layout, entry)) for name, entry in signed.release.artifacts]
    return [
        Bundle(signed, name, entry, built, runtime.parse(layout.get(dict(built.files)[FILE_NAME])))
        for name, entry, built in found
        if is_runtime(built)
    ]


def _store(layout: Layout, folder: Path, said: Runtime) -> Entry:
    files = tuple(
        (path.name, releases.store_file(layout, path, manifest.CODE_TYPE))
        for path in sorted(folder.iterdir())
    )
    config = {
        "descriptor": {"name": said.name, "version": said.version, "family": "runtime"},
        "config": {"architecture": said.arch, "format": " ".join(said.provides)},
        "modelfs": {"type": "layers", "diffIds": [blob.digest for _, blob in files]},
    }
    built = Artifact(config=layout.put([manifest.canonical(config)], manifest.CONFIG_TYPE), files=files)
    return Entry(layout.put([manifest.render_artifact(built)], manifest.MANIFEST_TYPE), said.arch)

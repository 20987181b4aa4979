"""Put a release in the registry, and take it out again, verified.

Order of writing: files, then artifact manifests, then the index, its signature, and last the
name. Whoever finds a name finds all that it names.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import golden, manifest, sign, vouch
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact, Blob, Entry, Release
from slmops.artifact.trust import Trust
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import catalog, referrers
from slmops.registry import index as indexes
from slmops.registry.catalog import Reference
from slmops.registry.check_model import check_model
from slmops.registry.layout import Layout

HIGHEST_KEY = "dev.slmops.counter."
"""With a release's name behind it, the annotation of the registry that says how far its counter has come."""


@dataclass(frozen=True)
class Signed:
    """A release as it goes to devices: the index's bytes and the signatures over them."""

    release: Release
    blob: Blob
    index: bytes
    signatures: tuple[bytes, ...]


def publish(
    layout: Layout,
    folders: Mapping[str, Path],
    *,
    created: str,
    key: Path,
    expires: str | None = None,
    needs: Mapping[str, Sequence[str]] | None = None,
) -> Signed:
    """Store the artifact folder of each profile as one signed release, the next of its name.

    `folders` maps a profile's name to the folder built for it; name and version are what their
    `artifact.json` say. `created` and `expires` are RFC 3339 in UTC, `key` is a release key; `needs` names
    the cpu features that a profile's artifact was built for.
    """
    said = {profile: _read_description(folder) for profile, folder in folders.items()}
    references = {description.reference for description in said.values()}
    if len(references) != 1:
        raise ReleaseError(
            f"one release, one name and version; these artifacts say {', '.join(sorted(references))}"
        )
    first = next(iter(said.values()))
    reference = catalog.reference(first.name, first.version)
    with layout.in_use():
        entries = tuple(
            (profile, _store_artifact(layout, folder, said[profile], created, (needs or {}).get(profile, ())))
            for profile, folder in folders.items()
        )
        return seal(layout, reference, entries, created=created, key=key, expires=expires)


def seal(
    layout: Layout,
    reference: Reference,
    entries: tuple[tuple[str, Entry], ...],
    *,
    created: str,
    key: Path,
    expires: str | None = None,
) -> Signed:
    """Make of artifacts that are stored a signed release, the next of its name; see `publish`."""
    counter = _counter(layout, reference)
    release = Release(reference.name, reference.version, created, entries, counter, expires)
    index = manifest.render_release(release)
    signature = sign.sign(index, key)
    blob = layout.put([index], manifest.INDEX_TYPE)
    layout.require_free(str(reference), blob)
    keep_signatures(layout, blob, [signature])
    layout.set_name(str(reference), blob, manifest.RELEASE_TYPE)
    return find(layout, reference)


def add_signature(layout: Layout, signed: Signed, key: Path) -> Signed:
    """Sign a release with one more key; once more with the same key changes nothing."""
    signature = sign.sign(signed.index, key)
    with layout.in_use():
        keep_signatures(layout, signed.blob, [signature])
        return find(layout, catalog.parse(signed.release.reference))


def keep_signatures(layout: Layout, signed: Blob, signatures: Iterable[bytes]) -> None:
    """Store signatures over an index, each as a manifest that refers to it."""
    empty = layout.put([b"{}"], referrers.EMPTY.media_type)
    for signature in signatures:
        layer = layout.put([signature], referrers.SIGNATURE_TYPE)
        described = {
            "schemaVersion": 2,
            "mediaType": manifest.MANIFEST_TYPE,
            "artifactType": referrers.SIGNATURE_TYPE,
            "config": {"mediaType": empty.media_type, "digest": empty.digest, "size": empty.size},
            "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
            "subject": {"mediaType": signed.media_type, "digest": signed.digest, "size": signed.size},
        }
        blob = layout.put([manifest.canonical(described)], manifest.MANIFEST_TYPE)
        layout.set_name(referrers.name(signed, blob), blob, referrers.SIGNATURE_TYPE)


def find(layout: Layout, reference: Reference) -> Signed:
    """Return a release with its signatures; raise ReleaseError when the registry has none such."""
    names = layout.names()
    blob = names.get(str(reference))
    if blob is None:
        there = [str(r) for r in references(layout) if r.name == reference.name]
        hint = f"; of {reference.name} it has {', '.join(there)}" if there else ""
        raise ReleaseError(f"the registry has no release {reference}{hint}")
    index = layout.get(blob)
    release = manifest.parse_release(index)
    if release.reference != str(reference):
        raise IntegrityError(f"{reference} in {layout.folder} stands for {release.reference}")
    return Signed(release, blob, index, _load_signatures(layout, names, blob))


def references(layout: Layout) -> list[Reference]:
    """Return every release in the registry, by name, newest version first."""
    named = [name for name in layout.names() if ":" in name]
    return catalog.newest_first([catalog.parse(name) for name in named])


def artifact(layout: Layout, entry: Entry) -> Artifact:
    """Return the manifest of an artifact, verified."""
    return manifest.parse_artifact(layout.get(entry.blob))


def description(layout: Layout, built: Artifact) -> Description:
    """Return what an artifact says of itself."""
    return descriptions.parse(layout.get(dict(built.files)[descriptions.FILE_NAME]))


def lay_out(layout: Layout, built: Artifact, folder: Path) -> None:
    """Put the files of an artifact into `folder`, verified: hard links, where the disk has such."""
    for name, blob in built.files:
        layout.check(blob)
        try:
            os.link(layout.path(blob.digest), folder / name)
        except OSError:
            shutil.copyfile(layout.path(blob.digest), folder / name)


def base(layout: Layout, signed: Signed) -> Reference:
    """Return the release that its models were built for: of an adapted one its base, else itself."""
    first = next(entry for _, entry in signed.release.artifacts)
    return catalog.parse(description(layout, artifact(layout, first)).base)


def models(layout: Layout, signed: Signed) -> list[tuple[str, str]]:
    """Return the digest of each profile's model file."""
    found = []
    for profile, entry in signed.release.artifacts:
        built = artifact(layout, entry)
        found.append((profile, dict(built.files)[description(layout, built).model].digest))
    return found


def verify(layout: Layout, signed: Signed, trust: Trust) -> int:
    """Check the signatures and every byte of a release; return how many bytes were read."""
    vouch.release(trust, signed.index, signed.signatures, signed.release.reference)
    read = 0
    for _, entry in signed.release.artifacts:
        built = artifact(layout, entry)
        for blob in (built.config, *(blob for _, blob in built.files)):
            layout.check(blob)
            read += blob.size
    return read


def _read_description(folder: Path) -> Description:
    """Read what an artifact folder says of itself, and see that what it names is there."""
    try:
        said = descriptions.parse((folder / descriptions.FILE_NAME).read_bytes())
    except FileNotFoundError as error:
        raise ReleaseError(f"{folder} is no artifact: it has no {descriptions.FILE_NAME}") from error
    for name in (said.model, said.tokenizer, said.chat_template, said.golden, said.adapter):
        if name is not None and not (folder / name).is_file():
            raise ReleaseError(f"{folder} is not whole: it names {name}, which is not there")
    for path in folder.iterdir():
        manifest.plain_name(path.name)
    check_model(folder / said.model)
    return said


def _store_artifact(
    layout: Layout, folder: Path, said: Description, created: str, needs: Sequence[str]
) -> Entry:
    files = tuple(
        (path.name, store_file(layout, path, _media_type(path.name, said)))
        for path in sorted(folder.iterdir())
        if path.is_file()
    )
    config = manifest.canonical(_model_config(said, files, created))
    built = Artifact(config=layout.put([config], manifest.CONFIG_TYPE), files=files)
    blob = layout.put([manifest.render_artifact(built)], manifest.MANIFEST_TYPE)
    return Entry(blob, said.arch, tuple(needs))


def store_file(layout: Layout, path: Path, media_type: str) -> Blob:
    """Store a file; return what it is called."""
    with path.open("rb") as file:
        return layout.put(digests.pieces(file), media_type)


def _media_type(name: str, said: Description) -> str:
    if name in (said.model, said.adapter) or name.startswith(said.model + "."):
        return manifest.WEIGHT_TYPE
    if name == golden.FILE_NAME:
        return manifest.DATASET_TYPE
    return manifest.DOC_TYPE if name.endswith(".md") else manifest.WEIGHT_CONFIG_TYPE


def _model_config(said: Description, files: tuple[tuple[str, Blob], ...], created: str) -> dict[str, Any]:
    return {
        "descriptor": {
            "createdAt": created,
            "name": said.name,
            "version": said.version,
            "family": said.architecture,
        },
        "config": {
            "architecture": "transformer",
            "format": said.format,
            "paramSize": f"{said.parameters / 1e6:.3g}m",
            "quantization": said.type,
        },
        "modelfs": {"type": "layers", "diffIds": [blob.digest for _, blob in files]},
    }


def _counter(layout: Layout, reference: Reference) -> int:
    """Return the counter of a release that is there, or the next above all that its name ever had."""
    there = _counters(layout, reference.name)
    return there[reference] if reference in there else highest(layout, reference.name) + 1


def highest(layout: Layout, name: str) -> int:
    """Return the highest counter that a release of this name has, or had before it was let go."""
    gone = indexes.remembered(layout.index()).get(HIGHEST_KEY + name, "0")
    return max(int(gone), *_counters(layout, name).values(), 0)


def _counters(layout: Layout, name: str) -> dict[Reference, int]:
    names = layout.names()
    return {
        each: manifest.parse_release(layout.get(names[str(each)])).counter
        for each in references(layout)
        if each.name == name
    }


def _load_signatures(layout: Layout, names: Mapping[str, Blob], signed: Blob) -> tuple[bytes, ...]:
    held = referrers.of(names, signed)
    if not held:
        raise IntegrityError(f"release {digests.short(signed.digest)} is not signed")
    return tuple(layout.get(referrers.content(layout.get(each))) for each in held)

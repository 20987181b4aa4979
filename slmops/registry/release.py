"""Put a release in the registry, and take it out again, verified.

Order of writing: files, then artifact manifests, then the index, its signature, and last the
name. Whoever finds a name finds all that it names.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact import description as descriptions
from slmops.artifact import golden, manifest, sign
from slmops.artifact.description import Description
from slmops.artifact.manifest import Artifact, Blob, Entry, Release
from slmops.errors import IntegrityError, ReleaseError
from slmops.registry import catalog
from slmops.registry.catalog import Reference
from slmops.registry.layout import Layout

SIGNATURE_TYPE = "application/vnd.slmops.signature.v1"
_SUFFIX = ".sig"


@dataclass(frozen=True)
class Signed:
    """A release as it goes to devices: the index's bytes and the signature over them."""

    release: Release
    blob: Blob
    index: bytes
    signature: bytes


def publish(layout: Layout, folders: Mapping[str, Path], *, created: str, key: Path) -> Signed:
    """Store the artifact folder of each profile as one signed release.

    `folders` maps a profile's name to the folder built for it; name and version are what their
    `artifact.json` say. `created` is RFC 3339, `key` the private release key.
    """
    said = {profile: _read_description(folder) for profile, folder in folders.items()}
    references = {description.reference for description in said.values()}
    if len(references) != 1:
        raise ReleaseError(
            f"one release, one name and version; these artifacts say {', '.join(sorted(references))}"
        )
    first = next(iter(said.values()))
    reference = catalog.reference(first.name, first.version)
    entries = tuple(
        (profile, _store_artifact(layout, folder, said[profile], created))
        for profile, folder in folders.items()
    )
    release = Release(reference.name, reference.version, created, entries)
    index = manifest.render_release(release)
    signature = sign.sign(index, key)
    blob = layout.put([index], manifest.INDEX_TYPE)
    layout.require_free(str(reference), blob)
    _store_signature(layout, blob, signature)
    layout.set_name(str(reference), blob, manifest.RELEASE_TYPE)
    return Signed(release, blob, index, signature)


def find(layout: Layout, reference: Reference) -> Signed:
    """Return a release with its signature; raise ReleaseError when the registry has none such."""
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
    return Signed(release, blob, index, _load_signature(layout, names, blob))


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


def verify(layout: Layout, signed: Signed, signers: str) -> int:
    """Check the signature and every byte of a release; return how many bytes were read."""
    sign.verify(signed.index, signed.signature, signers)
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
    return said


def _store_artifact(layout: Layout, folder: Path, said: Description, created: str) -> Entry:
    files = tuple(
        (path.name, _store_file(layout, path, _media_type(path.name, said)))
        for path in sorted(folder.iterdir())
        if path.is_file()
    )
    config = manifest.canonical(_model_config(said, files, created))
    built = Artifact(config=layout.put([config], manifest.CONFIG_TYPE), files=files)
    return Entry(blob=layout.put([manifest.render_artifact(built)], manifest.MANIFEST_TYPE), arch=said.arch)


def _store_file(layout: Layout, path: Path, media_type: str) -> Blob:
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


def _store_signature(layout: Layout, signed: Blob, signature: bytes) -> None:
    layer = layout.put([signature], SIGNATURE_TYPE)
    empty = layout.put([b"{}"], "application/vnd.oci.empty.v1+json")
    described = {
        "schemaVersion": 2,
        "mediaType": manifest.MANIFEST_TYPE,
        "artifactType": SIGNATURE_TYPE,
        "config": {"mediaType": empty.media_type, "digest": empty.digest, "size": empty.size},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
        "subject": {"mediaType": signed.media_type, "digest": signed.digest, "size": signed.size},
    }
    blob = layout.put([manifest.canonical(described)], manifest.MANIFEST_TYPE)
    layout.set_name(_signature_name(signed), blob, SIGNATURE_TYPE)


def _load_signature(layout: Layout, names: Mapping[str, Blob], signed: Blob) -> bytes:
    held = names.get(_signature_name(signed))
    if held is None:
        raise IntegrityError(f"release {digests.short(signed.digest)} is not signed")
    layer = json.loads(layout.get(held))["layers"][0]
    return layout.get(Blob(layer["mediaType"], layer["digest"], layer["size"]))


def _signature_name(signed: Blob) -> str:
    return "sha256-" + digests.hexdigits(signed.digest) + _SUFFIX

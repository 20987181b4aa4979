"""The index of an OCI image layout: which name stands for which blob, as a document.

It does not know where the document lies. An entry without a name belongs to another tool and is left alone.

Laws: `parse(render(i)) == i`; naming changes the entry of that name alone; what is left out is gone and
nothing else. Source: github.com/opencontainers/image-spec, image-layout.md and image-index.md.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

from slmops.artifact.manifest import INDEX_TYPE, Blob, canonical
from slmops.errors import IntegrityError

REF_KEY = "org.opencontainers.image.ref.name"
LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})

Index = dict[str, Any]


def empty() -> Index:
    """Return the index of a layout that holds nothing."""
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}


def parse(data: bytes, called: str) -> Index:
    """Read an index; raise IntegrityError, which calls it `called`, when it is none."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{called} is not JSON: {error}") from error
    if not _is_index(said):
        raise IntegrityError(f"{called} is no OCI image index")
    return dict(said)


def render(index: Index) -> bytes:
    """Return the index as its file has it."""
    return canonical(index)


def names(index: Index) -> dict[str, Blob]:
    """Return every name and the blob it stands for."""
    return {name: _blob(entry) for entry in index["manifests"] if (name := _name(entry)) is not None}


def blobs(index: Index) -> list[Blob]:
    """Return what every entry stands for, named or not."""
    return [_blob(entry) for entry in index["manifests"]]


def notes(index: Index, name: str) -> dict[str, str]:
    """Return the annotations of a name; none when nothing has that name."""
    found = (entry["annotations"] for entry in index["manifests"] if _name(entry) == name)
    return dict(next(found, {}))


def remembered(index: Index) -> dict[str, str]:
    """Return the annotations of the index itself."""
    return dict(index.get("annotations", {}))


def remembering(index: Index, more: Mapping[str, str]) -> Index:
    """Return the index with more annotations of its own."""
    return {**index, "annotations": {**remembered(index), **more}}


def named(
    index: Index, name: str, blob: Blob, artifact_type: str, said: Mapping[str, str] | None = None
) -> Index:
    """Return the index in which `name` stands for `blob`; `said` are annotations beside the name."""
    entry = {
        "mediaType": blob.media_type,
        "digest": blob.digest,
        "size": blob.size,
        "artifactType": artifact_type,
        "annotations": {**(said or {}), REF_KEY: name},
    }
    return {**index, "manifests": [*without(index, {name})["manifests"], entry]}


def without(index: Index, gone: Collection[str]) -> Index:
    """Return the index without these names."""
    return {**index, "manifests": [entry for entry in index["manifests"] if _name(entry) not in gone]}


def _name(entry: dict[str, Any]) -> str | None:
    found = entry.get("annotations", {}).get(REF_KEY)
    return str(found) if found is not None else None


def _blob(entry: dict[str, Any]) -> Blob:
    return Blob(entry["mediaType"], entry["digest"], entry["size"])


def _is_index(said: Any) -> bool:
    if not _has(said, manifests=list, annotations=dict):
        return False
    return all(
        _has(each, mediaType=str, digest=str, size=int, annotations=dict) for each in said["manifests"]
    )


def _has(said: Any, **kinds: type) -> bool:
    """Say whether an object has these keys, and under each what it should be; annotations may be missing."""
    return isinstance(said, dict) and all(
        isinstance(said.get(key, {} if key == "annotations" else None), kind) for key, kind in kinds.items()
    )

"""Manifests that speak of another manifest, its subject: signatures, as OCI 1.1 has them.

Pure. In a layout they are found by name, in a registry without the referrers API by a tag that stands for
a list of them. Sources: github.com/opencontainers/image-spec, manifest.md (`subject`);
github.com/opencontainers/distribution-spec, spec.md (referrers tag schema).

Laws: `listed(with_one(list, m))` has m once, however often it is added; no other entry is touched.
"""

import json
from collections.abc import Mapping
from typing import Any

from slmops import digest as digests
from slmops.artifact.manifest import INDEX_TYPE, MANIFEST_TYPE, Blob, canonical
from slmops.errors import IntegrityError

SIGNATURE_TYPE = "application/vnd.slmops.signature.v1"
EMPTY = Blob("application/vnd.oci.empty.v1+json", digests.of_bytes(b"{}"), 2)
"""The config of a manifest that needs none."""
MOST = 64
"""Referrers of one subject that are looked at: who lists more is up to no good."""


def tag(subject: Blob) -> str:
    """Return the tag under which a registry without the referrers API lists those of `subject`."""
    return "sha256-" + digests.hexdigits(subject.digest)


def name(subject: Blob, signature: Blob) -> str:
    """Return the name of a signature's manifest in a layout."""
    return f"{tag(subject)}.{digests.short(signature.digest)}.sig"


def of(names: Mapping[str, Blob], subject: Blob) -> list[Blob]:
    """Return those of `subject` among the names of a layout."""
    begins = tag(subject) + "."
    return [blob for name, blob in names.items() if name.startswith(begins)][:MOST]


def listed(data: bytes) -> list[Blob]:
    """Return the signatures in a list of referrers; raise IntegrityError when it is none."""
    found = []
    for entry in _entries(data):
        size = entry.get("size")
        if entry.get("artifactType") == SIGNATURE_TYPE and isinstance(size, int):
            found.append(Blob(MANIFEST_TYPE, digests.parse(str(entry.get("digest"))), size))
    return found[:MOST]


def with_one(data: bytes | None, signature: Blob) -> bytes:
    """Return a list of referrers with one more in it; `data` is the list so far."""
    entries = [each for each in _entries(data) if each.get("digest") != signature.digest] if data else []
    one = {
        "mediaType": signature.media_type,
        "digest": signature.digest,
        "size": signature.size,
        "artifactType": SIGNATURE_TYPE,
    }
    return canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*entries, one]})


def content(data: bytes) -> Blob:
    """Return where the signature itself is, of a manifest that says it is one; else raise IntegrityError."""
    try:
        said = json.loads(data)
        (layer,) = said["layers"]
        blob = Blob(str(layer["mediaType"]), digests.parse(str(layer["digest"])), layer["size"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"a signature's manifest is none: {error!r}") from error
    if said.get("artifactType") != SIGNATURE_TYPE or not isinstance(blob.size, int):
        raise IntegrityError(f"a signature's manifest says it is {str(said.get('artifactType'))[:80]!r}")
    return blob


def _entries(data: bytes) -> list[dict[str, Any]]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"a list of referrers is not JSON: {error}") from error
    entries = said.get("manifests") if isinstance(said, dict) else None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise IntegrityError("a list of referrers is no OCI image index")
    return entries

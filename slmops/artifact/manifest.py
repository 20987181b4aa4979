"""What a release and its artifacts are made of, as bytes that never vary.

A release is an OCI image index; each artifact in it is an OCI image manifest with the media
types of the CNCF ModelPack specification (github.com/modelpack/model-spec), one layer a file.
The index is what gets signed: its digest fixes every byte below it.

Laws: `parse_x(render_x(m)) == m`; equal values render to equal bytes; a file path is one plain
name, so no artifact can write outside its folder; two files never share a name.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from slmops import digest as digests
from slmops.errors import IntegrityError

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
RELEASE_TYPE = "application/vnd.slmops.release.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
DOC_TYPE = "application/vnd.cncf.model.doc.v1.raw"
DATASET_TYPE = "application/vnd.cncf.model.dataset.v1.raw"
CODE_TYPE = "application/vnd.cncf.model.code.v1.raw"

PATH_KEY = "org.cncf.model.filepath"
PROFILE_KEY = "dev.slmops.profile"
NAME_KEY = "org.opencontainers.image.title"
VERSION_KEY = "org.opencontainers.image.version"
CREATED_KEY = "org.opencontainers.image.created"
COUNTER_KEY = "dev.slmops.counter"
EXPIRES_KEY = "dev.slmops.expires"
FEATURES_KEY = "dev.slmops.cpu-features"

GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""`uname -m` to what OCI calls the architecture."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COUNTER = re.compile(r"0|[1-9][0-9]{0,14}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_FEATURES = re.compile(r"[a-z0-9_]+(,[a-z0-9_]+)*")


@dataclass(frozen=True)
class Blob:
    """A piece of content: what kind it is, its digest and its size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """One built model for one profile: a ModelPack config and files by name."""

    config: Blob
    files: tuple[tuple[str, Blob], ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(blob.size for _, blob in self.files)


@dataclass(frozen=True)
class Entry:
    """An artifact as its release lists it."""

    blob: Blob
    arch: str
    features: tuple[str, ...] = ()
    """Instruction-set features that the artifact was built for, by their names in /proc/cpuinfo."""


@dataclass(frozen=True)
class Release:
    """A name, a version, and an artifact for each profile."""

    name: str
    version: str
    created: str
    """RFC 3339, UTC."""
    artifacts: tuple[tuple[str, Entry], ...]
    counter: int = 0
    """Later releases of a name have higher ones, whatever their versions are called."""
    expires: str | None = None
    """After this moment (2026-01-31T12:00:00Z) no device takes the release in; who has it keeps it."""

    @property
    def reference(self) -> str:
        """Return `name:version`."""
        return f"{self.name}:{self.version}"

    def entry(self, profile: str) -> Entry:
        """Return the artifact for `profile`, or raise IntegrityError naming those there are."""
        found = dict(self.artifacts).get(profile)
        if found is None:
            there = ", ".join(name for name, _ in self.artifacts)
            raise IntegrityError(f"{self.reference} has no artifact for profile {profile!r}; it has: {there}")
        return found


def canonical(value: Any) -> bytes:
    """Return JSON whose bytes depend on the value alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def render_artifact(artifact: Artifact) -> bytes:
    """Return the OCI image manifest of an artifact."""
    # By the title, clients that know nothing of models (oras) call the file.
    layers = [
        {**_descriptor(blob), "annotations": {PATH_KEY: path, NAME_KEY: path}}
        for path, blob in artifact.files
    ]
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": _descriptor(artifact.config),
            "layers": layers,
        }
    )


def parse_artifact(data: bytes) -> Artifact:
    """Read an OCI image manifest; raise IntegrityError when it is not an artifact of ours."""
    said = _object(data, MANIFEST_TYPE, ARTIFACT_TYPE)
    files = tuple((plain_name(_annotation(layer, PATH_KEY)), _blob(layer)) for layer in _list(said, "layers"))
    if len({path for path, _ in files}) != len(files):
        raise IntegrityError("artifact manifest: two files share a name")
    return Artifact(config=_blob(said.get("config")), files=files)


def render_release(release: Release) -> bytes:
    """Return the OCI image index of a release: the bytes that are signed."""
    manifests = [
        {
            **_descriptor(entry.blob),
            "artifactType": ARTIFACT_TYPE,
            "platform": {"architecture": GO_ARCH.get(entry.arch, entry.arch), "os": "linux"},
            "annotations": {PROFILE_KEY: profile, **_optional(FEATURES_KEY, ",".join(entry.features))},
        }
        for profile, entry in release.artifacts
    ]
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "artifactType": RELEASE_TYPE,
            "manifests": manifests,
            "annotations": {
                NAME_KEY: release.name,
                VERSION_KEY: release.version,
                CREATED_KEY: release.created,
                **_optional(COUNTER_KEY, str(release.counter or "")),
                **_optional(EXPIRES_KEY, release.expires or ""),
            },
        }
    )


def parse_release(data: bytes) -> Release:
    """Read an OCI image index; raise IntegrityError when it is not a release of ours."""
    said = _object(data, INDEX_TYPE, RELEASE_TYPE)
    uname = {go: arch for arch, go in GO_ARCH.items()}
    artifacts = []
    for each in _list(said, "manifests"):
        blob, go_arch = _blob(each), _architecture(each)
        features = _stated(each, FEATURES_KEY, _FEATURES, "")
        entry = Entry(blob, uname.get(go_arch, go_arch), tuple(features.split(",")) if features else ())
        artifacts.append((_annotation(each, PROFILE_KEY), entry))
    if len(dict(artifacts)) != len(artifacts):
        raise IntegrityError("release index: a profile stands in it twice")
    return Release(
        name=_annotation(said, NAME_KEY),
        version=_annotation(said, VERSION_KEY),
        created=_annotation(said, CREATED_KEY),
        artifacts=tuple(artifacts),
        counter=int(_stated(said, COUNTER_KEY, _COUNTER, "0")),
        expires=_stated(said, EXPIRES_KEY, _MOMENT, "") or None,
    )


def _descriptor(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _object(data: bytes, media_type: str, artifact_type: str) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"manifest is not JSON: {error}") from error
    got = (said.get("mediaType"), said.get("artifactType")) if isinstance(said, dict) else type(said)
    if got != (media_type, artifact_type):
        raise IntegrityError(f"manifest: expected {media_type} of type {artifact_type}, got {got}")
    return dict(said)


def _list(said: dict[str, Any], key: str) -> Any:
    found = said.get(key)
    if not isinstance(found, list) or not found:
        raise IntegrityError(f"manifest: expected a list of {key}, got {str(found)[:60]!r}")
    return found


def _blob(said: Any) -> Blob:
    if not isinstance(said, dict):
        raise IntegrityError(f"manifest: expected a descriptor, got {str(said)[:60]!r}")
    size = said.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise IntegrityError(f"manifest: expected a size in bytes, got {size!r}")
    digest = digests.parse(str(said.get("digest")))
    return Blob(media_type=str(said.get("mediaType")), digest=digest, size=size)


def _architecture(said: Any) -> str:
    platform = said.get("platform") if isinstance(said, dict) else None
    found = platform.get("architecture") if isinstance(platform, dict) else None
    if not isinstance(found, str) or not found:
        raise IntegrityError(f"release index: expected platform.architecture, got {str(platform)[:60]!r}")
    return found


def _annotation(said: Any, key: str) -> str:
    notes = said.get("annotations") if isinstance(said, dict) else None
    found = notes.get(key) if isinstance(notes, dict) else None
    if not isinstance(found, str) or not found:
        raise IntegrityError(f"manifest: annotation {key} is missing")
    return found


def _stated(said: Any, key: str, form: re.Pattern[str], default: str) -> str:
    """Return an annotation that need not be there, but has this form when it is."""
    notes = said.get("annotations")
    if not isinstance(notes, dict) or key not in notes:
        return default
    found = _annotation(said, key)
    if not form.fullmatch(found):
        raise IntegrityError(f"manifest: annotation {key}: expected {form.pattern}, got {found[:60]!r}")
    return found


def _optional(key: str, value: str) -> dict[str, str]:
    return {key: value} if value else {}


def plain_name(path: str) -> str:
    """Return `path` if it is a name that may stand in an artifact, else raise IntegrityError."""
    if not _PLAIN_NAME.fullmatch(path):
        raise IntegrityError(f"manifest: {path[:80]!r} is not a plain file name")
    return path

"""A release as a CycloneDX 1.6 bill of materials for machine learning.

Pure, and a function of the signed release alone: it is made when it is asked for, is the same to the byte
each time, costs no device a byte, and cannot say anything else than what is signed.
Source: cyclonedx.org/docs/1.6/json; ecma-international.org, ECMA-424.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slmops import digest as digests
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.artifact.manifest import Artifact, Blob, Release
from slmops.registry import lineage
from slmops.registry.lineage import Lineage

MODEL = "machine-learning-model"


@dataclass(frozen=True)
class Part:
    """An artifact of the release: its profile, its manifest's blob, its files, what it says of itself."""

    profile: str
    blob: Blob
    built: Artifact
    said: Description


def bom(release: Release, blob: Blob, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the bill of materials; `blob` is the release's index."""
    lineages = {part.profile: lineage.of(part.said) for part in parts}
    sources = {found.source["digest"]: found for found in lineages.values() if "digest" in found.source}
    data = {value: key for found in lineages.values() for key, value in _data(found).items()}
    tools = {pair for found in lineages.values() for pair in found.tools.items()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, blob.digest)}",
        "version": 1,
        "metadata": {
            "timestamp": release.created,
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_tool(name, version) for name, version in sorted(tools)]},
            "component": {
                "type": MODEL,
                "bom-ref": blob.digest,
                "name": release.name,
                "version": release.version,
                "hashes": _hashes(blob.digest),
            },
        },
        "components": [
            *(_model(part, lineages[part.profile]) for part in parts),
            *(_source(found) for _, found in sorted(sources.items())),
            *(_dataset(name, digest) for digest, name in sorted(data.items())),
        ],
        "dependencies": [
            {"ref": blob.digest, "dependsOn": sorted({part.blob.digest for part in parts})},
            *_dependencies(parts, lineages),
        ],
    }


def _model(part: Part, found: Lineage) -> dict[str, Any]:
    said = part.said
    return {
        "type": MODEL,
        "bom-ref": part.blob.digest,
        "name": f"{said.name}/{part.profile}",
        "version": said.version,
        "description": f"{said.format} {said.type} for {part.profile}",
        "hashes": _hashes(part.blob.digest),
        **_licenses(found),
        "modelCard": _card(said, found),
        "components": [_file(part, name, blob) for name, blob in part.built.files],
        "properties": _properties(
            {
                "profile": part.profile,
                "arch": said.arch,
                "format": said.format,
                "type": said.type,
                "parameters": said.parameters,
                "context": said.context,
                "memory_bytes": said.memory_bytes,
                **found.build,
            }
        ),
    }


def _card(said: Description, found: Lineage) -> dict[str, Any]:
    classifies = said.task == CLASSIFICATION
    figures = [
        {"type": name, "value": f"{value:.6g}", **_interval(said.measured, name)}
        for name, value in sorted(said.measured.items())
        if not name.endswith(("_low", "_high"))
    ]
    return {
        "modelParameters": {
            "task": "text-classification" if classifies else "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": said.architecture,
            "datasets": [{"ref": digest} for digest in sorted(set(_data(found).values()))],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "label" if classifies else "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": figures},
    }


def _interval(measured: dict[str, float], name: str) -> dict[str, Any]:
    low, high = measured.get(f"{name}_low"), measured.get(f"{name}_high")
    if low is None or high is None:
        return {}
    return {"confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}}


def _file(part: Part, name: str, blob: Blob) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"{part.blob.digest}/{name}",
        "name": name,
        "hashes": _hashes(blob.digest),
        "properties": _properties({"bytes": blob.size, "media_type": blob.media_type}),
    }


def _source(found: Lineage) -> dict[str, Any]:
    source = found.source
    return {
        "type": MODEL,
        "bom-ref": f"source/{source['digest']}",
        "name": source.get("id", "source"),
        **({"version": source["revision"]} if "revision" in source else {}),
        "hashes": _hashes(source["digest"]),
        **_licenses(found),
        **({"properties": _properties({"ledger": source["ledger"]})} if "ledger" in source else {}),
    }


def _dataset(name: str, digest: str) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": digest,
        "name": name,
        "hashes": _hashes(digest),
        "data": [{"type": "dataset", "name": name}],
    }


def _data(found: Lineage) -> dict[str, str]:
    """Return the digests of the data, by what each was for."""
    return {key: value for key, value in found.data.items() if value.startswith("sha256:")}


def _dependencies(parts: Sequence[Part], lineages: dict[str, Lineage]) -> list[dict[str, Any]]:
    told = {}
    for part in parts:
        found = lineages[part.profile]
        source = [f"source/{found.source['digest']}"] if "digest" in found.source else []
        told[part.blob.digest] = sorted({*source, *_data(found).values()})
    return [{"ref": ref, "dependsOn": below} for ref, below in sorted(told.items())]


def _tool(name: str, version: str) -> dict[str, Any]:
    number, _, digest = version.partition(" ")
    return {
        "type": "library",
        "name": name,
        "version": number,
        "purl": f"pkg:pypi/{name}@{number}",
        **({"hashes": _hashes(digest)} if digest.startswith("sha256:") else {}),
    }


def _licenses(found: Lineage) -> dict[str, Any]:
    name = found.source.get("license")
    return {"licenses": [{"license": {"name": name}}]} if name else {}


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digests.hexdigits(digest)}]


def _properties(said: dict[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"dev.slmops:{name}", "value": str(value)} for name, value in said.items()]

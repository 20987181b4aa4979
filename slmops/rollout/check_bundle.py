"""Check an unattended bundle as a device would: every signature, every byte, and until when it is good."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.artifact import assignment as assignments
from slmops.artifact import manifest, sign, vouch
from slmops.artifact import trust as trusts
from slmops.artifact.trust import ROLLOUT, SignedTrust, Trust
from slmops.errors import IntegrityError, UsageError
from slmops.rollout.write_bundle import FILE_NAME

ANEW = "Write the bundle again: slmops bundle create."


@dataclass(frozen=True)
class Checked:
    """What a bundle that holds is."""

    release: str
    runtime: str | None
    profile: str
    trust: SignedTrust
    bytes: int
    """Of all files of its releases."""
    devices: dict[str, str | None]
    """Until when each device may install it; None where no assignment is asked for."""


def check(folder: Path) -> Checked:
    """Return what a bundle is; raise IntegrityError when anything in it is not what was signed."""
    said = read(folder)
    try:
        return _checked(folder, said)
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing", remedy=ANEW) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder / FILE_NAME} has rotted: {error!r}", remedy=ANEW) from error


def _checked(folder: Path, said: dict[str, Any]) -> Checked:
    signed = _trust(said["trust"])
    found = {name: _part(folder / name, part, signed.trust) for name, part in said["parts"].items()}
    slots = {
        part["slot"]: digests.of_file(folder / name / "index.json") for name, part in said["parts"].items()
    }
    devices = {name: _until(signed.trust, name, each, slots) for name, each in said["devices"].items()}
    runtime = found.get("runtime")
    return Checked(
        release=found["model"][0],
        runtime=runtime and runtime[0],
        profile=said["parts"]["model"]["key"],
        trust=signed,
        bytes=sum(size for _, size in found.values()),
        devices=devices,
    )


def read(folder: Path) -> dict[str, Any]:
    """Return what a bundle says of itself; nothing of it has been checked."""
    try:
        return dict(json.loads((folder / FILE_NAME).read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is no bundle: it has no {FILE_NAME}") from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{folder / FILE_NAME} has rotted", remedy=ANEW) from error


def _trust(said: list[Any]) -> SignedTrust:
    """Return the newest trust document, each having led to the next."""
    chain = [trusts.from_said(each) for each in said]
    known: Trust | None = None
    for signed in chain:
        known = vouch.advance(known, signed)
    if not chain:
        raise IntegrityError("the bundle has no trust document")
    return chain[-1]


def _part(folder: Path, part: dict[str, str], trust: Trust) -> tuple[str, int]:
    """Return a release's reference and bytes, once every one of them was read."""
    index = (folder / "index.json").read_bytes()
    vouch.release(trust, index, sign.split((folder / "signature").read_bytes()))
    release = manifest.parse_release(index)
    described = (folder / "manifest.json").read_bytes()
    digest = digests.of_bytes(described)
    if digest != release.entry(part["key"]).blob.digest or digests.hexdigits(digest) != part["slot"]:
        raise IntegrityError(f"{folder}/manifest.json is not the one its release lists")
    built = manifest.parse_artifact(described)
    for name, blob in built.files:
        path = folder / "files" / name
        if not path.is_file() or digests.of_file(path) != blob.digest:
            raise IntegrityError(f"{path} has rotted", remedy=ANEW)
    return release.reference, built.size


def _until(trust: Trust, name: str, device: dict[str, Any], slots: dict[str, str]) -> str | None:
    """Return until when a device may install it; `slots` holds the digest of the release of each."""
    if not trust.roles[ROLLOUT].keys:
        return None
    found = []
    for part, signed in device["assignments"].items():
        document = signed["document"].encode()
        vouch.assignment(trust, document, sign.split(signed["signature"].encode()))
        assigned = assignments.parse(document)
        if assigned.device != name or slots.get(assigned.slot) != assigned.release:
            raise IntegrityError(f"{name}: its assignment of the {part} is for another device or artifact")
        found.append(assigned)
    if {assigned.slot for assigned in found} != set(slots):
        raise IntegrityError(f"{name}: it has no assignment for {len(slots)} releases", remedy=ANEW)
    return min(assigned.valid_until for assigned in found)

"""Look at a device before anything is sent: can it be reached, can it bear the release, has it got it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slmops.errors import DoesNotFitError, HostKeyError, SlmopsError, UnreachableError
from slmops.fleet import agent, probe
from slmops.fleet.agent import NoAgentError
from slmops.fleet.inventory import Device
from slmops.fleet.ssh import Link
from slmops.profile.fit import compatible
from slmops.profile.reading import DeviceFacts
from slmops.rollout.order import Order, Parcel

NEEDS = {
    "gguf": (
        "slmops.daemon",
        "llama_cpp",
        "starlette",
        "uvicorn",
        "msgspec",
        "prometheus_client",
        "tokenizers",
    ),
    "onnx": (
        "slmops.daemon",
        "onnxruntime",
        "starlette",
        "uvicorn",
        "msgspec",
        "prometheus_client",
        "tokenizers",
    ),
}
"""Python modules the daemon needs on the device, by the artifact's format."""


@dataclass(frozen=True)
class Finding:
    """What the look at one device has shown."""

    device: Device
    parcel: Parcel | None = None
    serves: str | None = None
    """`name:version` it serves now."""
    current: bool = False
    """It has this very artifact, committed and healthy."""
    refusal: SlmopsError | None = None
    """Why it cannot take the release."""
    unreachable: UnreachableError | None = None


def look(device: Device, order: Order, trusted: tuple[Path, ...]) -> Finding:
    """Look at one device; nothing is written there. A changed or unknown host key is a refusal."""
    try:
        parcel = order.parcel(device)
        with Link(device, trusted) as link:
            return _look(link, parcel)
    except HostKeyError as error:
        return Finding(device, refusal=error)
    except UnreachableError as error:
        return Finding(device, unreachable=error)
    except SlmopsError as error:
        return Finding(device, refusal=error)


def _look(link: Link, parcel: Parcel) -> Finding:
    serving, current = _standing(link, parcel.slot)
    serves = serving.get("reference")
    if current:
        return Finding(link.device, parcel, serves, current=True)
    said = parcel.description
    short = compatible(
        arch=said.arch,
        memory_bytes=said.memory_bytes,
        disk_bytes=parcel.artifact.size,
        have=_once_freed(probe.facts(link), serving.get("memory_bytes", 0)),
    )
    lacking = probe.lacking(link, NEEDS[said.format])
    reasons = [*short, *([lacking] if lacking else [])]
    if not reasons:
        return Finding(link.device, parcel, serves)
    return Finding(
        link.device, parcel, serves, refusal=DoesNotFitError(f"{link.device.name}: {'; '.join(reasons)}")
    )


def _once_freed(have: DeviceFacts, serving: int) -> DeviceFacts:
    """Count the memory of the release that serves now: its daemon ends before the new one starts."""
    if have.memory_available is None:
        return have
    return replace(have, memory_available=have.memory_available + serving)


def _standing(link: Link, slot: str) -> tuple[dict[str, Any], bool]:
    """Return the release the device serves, and whether that is `slot`, committed and healthy."""
    try:
        said = agent.call(link, "status")
    except NoAgentError:
        return {}, False
    standing = said["standing"]
    current = standing["slot"] == slot and standing["trial"] is None and said["healthy"]
    return said["release"] or {}, bool(current)

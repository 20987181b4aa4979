"""Look at a device before anything is sent: can it be reached, can it bear the release, has it got it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.errors import DoesNotFitError, HostKeyError, IntegrityError, SlmopsError, UnreachableError
from slmops.fleet import agent, probe
from slmops.fleet.agent import NoAgentError
from slmops.fleet.inventory import Device
from slmops.fleet.ssh import Link
from slmops.profile.fit import compatible
from slmops.profile.reading import DeviceFacts
from slmops.rollout.order import Order, Parcel
from slmops.wire import DISK_RESERVE

SERVING = (
    "slmops.daemon",
    "jinja2",
    "msgspec",
    "numpy",
    "prometheus_client",
    "starlette",
    "tokenizers",
    "uvicorn",
)
NEEDS = {"gguf": (*SERVING, "llama_cpp"), "onnx": (*SERVING, "onnxruntime")}
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
    lacks: int = 0
    """Bytes of the artifact that it has not got, and is sent."""


def look(device: Device, order: Order, trusted: tuple[Path, ...]) -> Finding:
    """Look at one device; nothing is written there. A changed or unknown host key is a refusal."""
    try:
        parcel = order.parcel(device)
        with Link(device, trusted) as link:
            return _look(link, order, parcel)
    except HostKeyError as error:
        return Finding(device, refusal=error)
    except UnreachableError as error:
        return Finding(device, unreachable=error)
    except SlmopsError as error:
        return Finding(device, refusal=error)


def _look(link: Link, order: Order, parcel: Parcel) -> Finding:
    told = _status(link)
    serving = told.get("release") or {}
    serves = serving.get("reference")
    if told.get("signers") not in (None, digests.of_bytes(order.signers.encode())):
        raise IntegrityError(
            f"{link.device.name} trusts another release key than yours",
            remedy="Use the SLMOPS_HOME that deployed to it first, or retire it: slmops device retire.",
        )
    if _is_current(told, parcel.slot):
        return Finding(link.device, parcel, serves, current=True)
    said = parcel.description
    lacks = to_come(parcel, told)
    short = compatible(
        arch=said.arch,
        memory_bytes=said.memory_bytes,
        disk_bytes=lacks + DISK_RESERVE if lacks else 0,
        have=_once_freed(probe.facts(link), serving.get("memory_bytes", 0)),
    )
    lacking = probe.lacking(link, NEEDS[said.format])
    reasons = [*short, *([lacking] if lacking else [])]
    if not reasons:
        return Finding(link.device, parcel, serves, lacks=lacks)
    return Finding(
        link.device, parcel, serves, refusal=DoesNotFitError(f"{link.device.name}: {'; '.join(reasons)}")
    )


def to_come(parcel: Parcel, told: dict[str, Any]) -> int:
    """Return the bytes that a device lacks of a parcel: what any of its slots holds is linked there."""
    if parcel.slot in told.get("slots", []):
        return 0
    held = set(told.get("held", []))
    return sum(blob.size for _, blob in parcel.artifact.files if blob.digest not in held)


def _once_freed(have: DeviceFacts, serving: int) -> DeviceFacts:
    """Count the memory of the release that serves now: its daemon ends before the new one starts."""
    if have.memory_available is None:
        return have
    return replace(have, memory_available=have.memory_available + serving)


def _status(link: Link) -> dict[str, Any]:
    """Return where the device says it stands; nothing when it never had an agent."""
    try:
        return agent.call(link, "status")
    except NoAgentError:
        return {}


def _is_current(told: dict[str, Any], slot: str) -> bool:
    standing = told.get("standing") or {}
    return bool(standing.get("slot") == slot and standing["trial"] is None and told["healthy"])

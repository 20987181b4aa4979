"""Look at a device before anything is sent: can it be reached, can it bear the release, has it got it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slmops import way
from slmops.artifact import trust as trusts
from slmops.artifact.runtime import Platform
from slmops.artifact.trust import Trust
from slmops.errors import DoesNotFitError, HostKeyError, IntegrityError, SlmopsError, UnreachableError
from slmops.fleet import agent, glance, probe
from slmops.fleet.agent import NoAgentError
from slmops.fleet.inventory import IN_BYTES, Device
from slmops.fleet.ssh import Link
from slmops.profile.fit import compatible
from slmops.profile.reading import DeviceFacts
from slmops.profile.sizes import exact_size
from slmops.rollout.order import ModelParcel, Order, Parcel, RuntimeParcel
from slmops.rollout.shipment import Item, Offers, shipment
from slmops.wire import DISK_RESERVE

SERVING = (
    "slmops.daemon",
    "jinja2",
    "llguidance",
    "msgspec",
    "numpy",
    "prometheus_client",
    "starlette",
    "tokenizers",
    "uvicorn",
)
NEEDS = {"gguf": (*SERVING, "llama_cpp"), "onnx": (*SERVING, "onnxruntime")}
"""Python modules that a daemon without a runtime bundle needs on the device, by the artifact's format."""


OPERATOR_GONE = ("CONFIRM_TIMEOUT", "GATE_BROKEN", "GATE_INCONCLUSIVE")
"""Codes of a way back that say nothing of the release: nobody came, hung up, or asked once more."""


@dataclass(frozen=True)
class Finding:
    """What the look at one device has shown."""

    device: Device
    parcel: ModelParcel | None = None
    runtime: RuntimeParcel | None = None
    """The bundle that its daemon is to run from."""
    serves: str | None = None
    """`name:version` it serves now."""
    current: bool = False
    """It has this very artifact, committed and healthy."""
    changed: tuple[str, ...] = ()
    """How it runs that otherwise than the fleet file says, setting by setting: `seats 4 -> 8`."""
    refusal: SlmopsError | None = None
    """Why it cannot take the release."""
    unreachable: UnreachableError | None = None
    slots: tuple[str, ...] = ()
    """The slots that it serves and may return to, runtime bundles' among them."""
    whole: tuple[str, ...] = ()
    """All slots that it has, but those that it knows to be rotten."""
    held: frozenset[str] = frozenset()
    """Digests of the files in its slots, but those that it knows to be rotten."""
    quarantined: str = ""
    """Why it does not take this artifact for now."""
    went_back_at: float | None = None
    """When, in unix seconds, it last went back because of this very artifact."""
    brought_by: str | None = None
    """Which rollout has brought it what it serves of this artifact, committed; None where it does not say."""
    epoch: int = 0
    """The highest epoch of a lease that it has heard."""
    facts: DeviceFacts | None = None
    """What it said of itself, the memory of the release that it serves counted as free; None unasked."""
    disk_bytes: int = 0
    """Disk that it must have free for the release and its own system; 0 when the release is there."""

    @property
    def goes(self) -> bool:
        """Say whether it gets the release."""
        return not (self.has_it or self.quarantined or self.refusal or self.unreachable)

    @property
    def has_it(self) -> bool:
        """Say whether it has the release, and runs it as the fleet file says."""
        return self.current and not self.changed

    def items(self, offers: Offers) -> tuple[Item, ...]:
        """Return what it is sent: of its runtime and of its model the files that no slot of its own holds."""
        lacking = [each for each in (self.runtime, self.parcel) if each and each.slot not in self.whole]
        return tuple(item for each in lacking for item in shipment(each.artifact, self.held, offers))


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


def _look(link: Link, order: Order, parcel: ModelParcel) -> Finding:
    """Return what is found; a device that has the release already says so without a program of ours."""
    return _at_a_glance(link, order, parcel) or _closely(link, order, parcel)


def _at_a_glance(link: Link, order: Order, parcel: ModelParcel) -> Finding | None:
    """Return the finding of a device that is current by its own bulletin; None for every other one."""
    told = glance.glance(link)
    if told is None or told["standing"]["slot"] != parcel.slot:
        return None
    _refuse_other_trust(link, order, told)
    bundled = link.device.bundle is not None
    runtime = _runtime(link.device, order, probe.facts(link)) if bundled else None
    finding = _found(link.device, parcel, runtime, told)
    return finding if finding.has_it else None


def _closely(link: Link, order: Order, parcel: ModelParcel) -> Finding:
    told = _status(link)
    _refuse_other_trust(link, order, told)
    refuse_below_floor(link.device, parcel, told, [signed.trust for signed in order.mandate.chain])
    have = probe.facts(link)
    runtime = _runtime(link.device, order, have)
    finding = _found(link.device, parcel, runtime, told)
    if finding.has_it:
        return finding
    said = parcel.description
    whole = sum(item.blob.size for item in finding.items({}))
    unpacked = runtime.description.unpacked if runtime and runtime.slot not in finding.whole else 0
    disk = whole + unpacked + DISK_RESERVE if whole else 0
    freed = _once_freed(have, (told.get("release") or {}).get("memory_bytes", 0))
    finding = replace(finding, facts=freed, disk_bytes=disk)
    short = compatible(arch=said.arch, memory_bytes=said.memory_bytes, disk_bytes=disk, have=freed)
    lacking = "" if runtime else probe.lacking(link, NEEDS[said.format])
    reasons = [*short, *([lacking] if lacking else [])]
    if not reasons:
        return finding
    remedy = runtime_remedy(link.device, _platform(have)) if lacking else None
    return replace(
        finding, refusal=DoesNotFitError(f"{link.device.name}: {'; '.join(reasons)}", remedy=remedy)
    )


def runtime_remedy(device: Device, platform: Platform | None) -> str:
    """Return what to do about a daemon that has nothing to run from on a device."""
    if device.bundle is None:
        return "Correct `runtime` in the fleet file, or say auto; a Python named there needs slmops[daemon]."
    return f"Run `slmops runtime build --platform {platform}`, then the same again."


def _found(
    device: Device, parcel: ModelParcel, runtime: RuntimeParcel | None, told: dict[str, Any]
) -> Finding:
    """Return what a device's status says of it."""
    standing = told.get("standing") or {}
    failure = standing.get("failure") or {}
    shunned = (told.get("quarantined") or {}).get(parcel.slot)
    return Finding(
        device,
        parcel,
        runtime,
        serves=(told.get("release") or {}).get("reference"),
        current=_is_current(told, parcel, runtime),
        changed=changed(standing, device),
        slots=kept_slots(standing),
        whole=tuple(told.get("slots", ())),
        held=frozenset(told.get("held", ())),
        quarantined=_shunned(shunned) if shunned else "",
        epoch=int((told.get("lease") or {}).get("epoch", 0)),
        brought_by=_brought_by(standing, parcel),
        went_back_at=failure.get("at") if _is_of_the_release(failure, parcel) else None,
    )


def _is_of_the_release(failure: dict[str, Any], parcel: Parcel) -> bool:
    """Say whether a device went back because of this artifact, and not because its operator was gone."""
    return failure.get("slot") == parcel.slot and failure.get("code") not in OPERATOR_GONE


def _brought_by(standing: dict[str, Any], parcel: Parcel) -> str | None:
    """Return by which rollout a device serves this artifact as it does, unless it went back to that."""
    moved = standing.get("moved") or {}
    here = standing.get("slot") == parcel.slot and standing.get("trial") is None
    return moved.get("rollout") if here and moved.get("kind") == "activated" else None


def _shunned(said: dict[str, Any]) -> str:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(said["until"]))
    return f"it failed here {said['failures']} times, the last time: {said['why']}; not tried until {until}"


def kept_slots(standing: dict[str, Any]) -> tuple[str, ...]:
    """Return the slots that a device so standing serves and may return to: models', then runtime bundles'.

    From a trial it returns to where it stood before, with the way back that it had then.
    """
    ways = (standing, standing.get("before") or {})
    models = [way.get(key) for way in ways for key in ("slot", "previous")]
    runs_from = [
        (way.get(key) or {}).get("runtime_slot")
        for way in ways
        for key in ("settings", "previous_settings", "earlier")
    ]
    return tuple(dict.fromkeys(slot for slot in (*models, *runs_from) if slot))


def changed(standing: Mapping[str, Any], device: Device) -> tuple[str, ...]:
    """Return in which settings of the daemon a device differs from the fleet file.

    In none where it does not say how it runs what it serves: an agent of before wrote no flags down. From
    which bundle it is to run is asked apart (`_is_current`), since that is another slot.
    """
    said = standing.get("settings") or {}
    if "daemon" not in said:
        return ()
    wanted = way.kept(device.told, said.get("runtime_slot"))
    return tuple(
        f"{name} {_setting(name, runs)} -> {_setting(name, is_to)}"
        for name, (runs, is_to) in way.differing(said, wanted).items()
    )


def _setting(name: str, value: Any) -> str:
    """Return a setting as the fleet file has it."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if name in IN_BYTES and isinstance(value, int) and value >= 0:
        return exact_size(value)
    return "default" if value is None else str(value)


def _refuse_other_trust(link: Link, order: Order, told: dict[str, Any]) -> None:
    trusted = told.get("trust")
    if trusted and trusted["digest"] not in order.mandate.digests:
        raise IntegrityError(
            f"{link.device.name} trusts another release key than yours (its trust document "
            f"{trusted['version']} is none of yours; your newest is {order.mandate.trust.version})",
            remedy="If keys were changed elsewhere, bring the newer documents: slmops trust export there, "
            "slmops trust import here. If it was never yours, retire it with the home that deployed to it.",
        )


def refuse_below_floor(device: Device, parcel: Parcel, told: dict[str, Any], chain: Sequence[Trust]) -> None:
    """Raise IntegrityError for a release below a device's floor, unless the device may return to it.

    `chain` are the operator's trust documents, oldest first: those the device lacks set its floor anew.
    """
    release, trusted = parcel.signed.release, told.get("trust") or {}
    floor = trusted.get("floors", {}).get(release.name, 0)
    for trust in chain:
        if trust.version > trusted.get("version", 0):
            floor = trust.floors.get(release.name, floor)
    if parcel.slot in kept_slots(told.get("standing") or {}):
        return
    try:
        trusts.require_floor(release, floor)
    except IntegrityError as error:
        raise IntegrityError(f"{device.name}: {error}", remedy=error.remedy) from error


def _platform(have: DeviceFacts) -> Platform | None:
    """Return for which runtime bundles a device is, or None where it has no Python."""
    if have.arch is None or have.python is None:
        return None
    return Platform(have.arch, ".".join(have.python.split(".")[:2]))


def _runtime(device: Device, order: Order, have: DeviceFacts) -> RuntimeParcel | None:
    platform = _platform(have)
    return order.runtime(device, platform) if platform else None


def _once_freed(have: DeviceFacts, serving: int) -> DeviceFacts:
    """Count the memory of the release that serves now: its daemon ends before the new one starts."""
    if have.memory_available is None:
        return have
    return replace(have, memory_available=have.memory_available + serving)


def _status(link: Link) -> dict[str, Any]:
    """Return where the device says it stands; nothing when it has no agent that we can speak with yet."""
    try:
        return agent.call(link, "status")
    except NoAgentError:
        return {}


def _is_current(told: dict[str, Any], parcel: Parcel, runtime: Parcel | None) -> bool:
    """Say whether a device serves this artifact from this runtime, committed, watched over, both whole."""
    standing = told.get("standing") or {}
    runs_from = (standing.get("settings") or {}).get("runtime_slot")
    serves = {each.slot for each in (parcel, runtime) if each}
    return bool(
        standing.get("slot") == parcel.slot
        and serves <= set(told["slots"])
        and not (told.get("release") or {}).get("damage")
        and standing["trial"] is None
        and told["healthy"]
        and told.get("supervised", True)
        and runs_from == (runtime and runtime.slot)
    )

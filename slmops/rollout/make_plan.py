"""Make a plan of what a look at every device has shown.

Nothing is sent and no device is asked anything here: the look was before. Laws: every device that was picked
stands in the plan once; those in waves are those that would get the release, cut as a rollout cuts them.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from slmops import digest as digests
from slmops.artifact.manifest import canonical
from slmops.errors import LockedError, QuarantinedError, SlmopsError
from slmops.fleet.inventory import Device, Fleet
from slmops.fleet.strategy import Strategy, at_most
from slmops.fleet.window import opens_in
from slmops.rollout import estimate
from slmops.rollout.assignment import State
from slmops.rollout.check import Finding
from slmops.rollout.estimate import Expected, Job, Pace, Past
from slmops.rollout.history import History, Line
from slmops.rollout.order import Order
from slmops.rollout.plan import Does, Known, Plan, PlannedDevice, PlannedWave, Room
from slmops.rollout.shipment import Offers
from slmops.rollout.waves import Wave, cut

OWN = ("identity", "known_hosts", "connect_timeout")
"""Settings by which each operator comes to a device in their own way: they make it no other device."""
ROLLOUTS = 200
"""Rollouts, the newest of all fleets, that are searched for those of one fleet."""
WAY = (State.SENDING, State.STAGED, State.TRIAL, State.COMMITTED)
"""States that a device enters one after the other; what it waits before its trial is no work."""
REMEMBERED = 5
"""Rollouts of a fleet, the newest that ended well on somebody, that tell how long the next one takes."""


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for, and by whom."""

    fleet: Fleet
    selector: str
    by: str
    """user@host."""


def make(
    asked: Asked, order: Order, findings: Sequence[Finding], *, offers: Offers, pasts: Sequence[Past]
) -> Plan:
    """Return the plan; `pasts` is what devices of this fleet took in rollouts before."""
    strategy, paces, now = asked.fleet.rollout, estimate.learn(pasts), time.time()
    waves = cut([each.device for each in findings if does(each) is Does.DEPLOY], strategy)
    numbered = list(enumerate(waves, 1))
    places = {device.name: (number, wave) for number, wave in numbered for device in wave.devices}
    devices = [_device(each, offers, paces, places.get(each.device.name)) for each in findings]
    sizes = Counter(device.labels.get(strategy.max_unavailable.by) for device in asked.fleet.resolved())
    parts = [_wave(number, wave, devices, strategy, sizes) for number, wave in numbered]
    whole = estimate.in_turn(
        [Expected(each.seconds, each.known) for each in parts], sum(each.soak for each in parts)
    )
    return Plan(
        release=order.signed.release.reference,
        digest=order.signed.blob.digest,
        fleet=asked.fleet.name,
        strategy=_digest(strategy.model_dump(mode="json")),
        selector=asked.selector,
        made=_written(now),
        by=asked.by,
        exit_code=_exit_code(findings, strategy),
        sends=sum(each.sends for each in devices),
        seconds=whole.seconds,
        known=whole.known,
        windows=bool(strategy.windows),
        opens=_opens(waves[0].devices if waves else (), strategy, now),
        waves=tuple(parts),
        devices=tuple(devices),
    )


def does(finding: Finding) -> Does:
    """Say what a rollout does with a device that looks so."""
    if finding.unreachable is not None:
        return Does.UNREACHABLE
    if finding.refusal is not None:
        return Does.LOCKED if isinstance(finding.refusal, LockedError) else Does.REFUSED
    if finding.has_it:
        return Does.ALREADY
    return Does.QUARANTINED if finding.quarantined else Does.DEPLOY


def _opens(devices: Iterable[Device], strategy: Strategy, now: float) -> str | None:
    """Return when the first of the first wave may begin, where none may now."""
    wait = min(
        (opens_in(strategy.windows, zone, now) for zone in {each.timezone for each in devices}), default=0
    )
    return _written(now + wait) if wait else None


def _written(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def pasts_of(history: History, fleet: str, devices: Collection[Device]) -> list[Past]:
    """Return what these devices took to get releases, as the history of their fleet has it."""
    profiles = {device.name: device.profile for device in devices}
    entries = (entry for entry in history.rollouts(ROLLOUTS) if entry.fleet == fleet)
    found = (_pasts(history.devices(entry.id), profiles) for entry in entries)
    return list(chain.from_iterable(islice(filter(None, found), REMEMBERED)))


def _pasts(lines: Iterable[Line], profiles: Mapping[str, str | None]) -> list[Past]:
    known = [(line, profiles[line.device]) for line in lines if line.device in profiles]
    return [past for line, profile in known if (past := _past(line, profile)) is not None]


def _past(line: Line, profile: str | None) -> Past | None:
    """Return what a device took that went all the way in one go, its waits apart; None of any other."""
    times = [line.entered[state.value] for state in WAY if state.value in line.entered]
    if line.state != State.COMMITTED.value or len(times) < len(WAY) or times != sorted(times):
        return None
    sending, staged, trial, committed = times
    return Past(profile, line.evidence.get("sent", 0), staged - sending, committed - trial)


def _device(
    finding: Finding, offers: Offers, paces: Mapping[str | None, Pace], place: tuple[int, Wave] | None
) -> PlannedDevice:
    device, parcel, runtime = finding.device, finding.parcel, finding.runtime
    items = finding.items(offers) if finding.goes else ()
    sends = sum(item.size for item in items)
    reason = _why_not(finding)
    expected = estimate.of_device(paces.get(device.profile), sends, device.bandwidth)
    if not finding.goes:
        expected = Expected(None, Known.NOTHING)
    return PlannedDevice(
        device=device.name,
        profile=device.profile,
        target=_digest({key: value for key, value in asdict(device).items() if key not in OWN}),
        does=does(finding),
        serves=finding.serves,
        serves_slot=finding.slots[0] if finding.serves and finding.slots else None,
        type=f"{parcel.description.format} {parcel.description.type}" if parcel else None,
        artifact=parcel.slot if parcel else None,
        runtime=runtime.description.reference if runtime else None,
        runtime_slot=runtime.slot if runtime else None,
        bytes=parcel.artifact.size if parcel else None,
        sends=sends,
        files=len(items),
        deltas=sum(item.delta is not None for item in items),
        memory=_memory(finding),
        disk=_disk(finding),
        wave=place and place[0],
        wave_name=place and place[1].name,
        seconds=expected.seconds,
        known=expected.known,
        reason=_reason(device, reason) or _what_changes(finding),
        code=reason.code if reason else None,
        remedy=reason.remedy if reason else "",
    )


def _why_not(finding: Finding) -> SlmopsError | None:
    if finding.unreachable or finding.refusal:
        return finding.unreachable or finding.refusal
    return QuarantinedError(finding.quarantined) if finding.quarantined else None


def _reason(device: Device, error: SlmopsError | None) -> str:
    """Return why, without the name that stands before it in a plan."""
    said = str(error or "")
    return said.removeprefix(f"{device.name}: ").removeprefix(f"{device.name} is unreachable: ")


def _what_changes(finding: Finding) -> str:
    """Return how a device is to run the release that it serves already; nothing of any other one."""
    return ", ".join(finding.changed) if finding.current else ""


def _memory(finding: Finding) -> Room | None:
    if finding.facts is None or finding.parcel is None:
        return None
    facts = finding.facts
    there = facts.memory_total if facts.memory_available is None else facts.memory_available
    return None if there is None else Room.of(finding.parcel.description.memory_bytes, there)


def _disk(finding: Finding) -> Room | None:
    if finding.facts is None or finding.facts.disk_free is None:
        return None
    return Room.of(finding.disk_bytes, finding.facts.disk_free)


def _wave(
    number: int, wave: Wave, devices: Iterable[PlannedDevice], strategy: Strategy, sizes: Counter[str | None]
) -> PlannedWave:
    """Return a wave in the plan; `sizes` says how many devices of the fleet share a label's value."""
    bound = strategy.max_unavailable
    members = [each for each in devices if each.wave == number]
    groups = {device.name: device.labels.get(bound.by) for device in wave.devices}
    jobs = [
        Job(Expected(each.seconds, each.known), group, max(1, at_most(bound.most, sizes[group])))
        if (group := groups[each.device]) is not None
        else Job(Expected(each.seconds, each.known))
        for each in members
    ]
    expected = estimate.of_wave(jobs, strategy.max_parallel, strategy.rate)
    return PlannedWave(
        number=number,
        name=wave.name,
        devices=len(members),
        sends=sum(each.sends for each in members),
        seconds=expected.seconds,
        known=expected.known,
        soak=wave.soak,
        advance=wave.advance,
    )


def _exit_code(findings: Sequence[Finding], strategy: Strategy) -> int:
    """Return what a rollout over devices that look so would be refused with; 0 when it would begin."""
    refused = [each.refusal.exit_code for each in findings if each.refusal is not None]
    lost = [each.unreachable.exit_code for each in findings if each.unreachable is not None]
    if refused:
        return max(refused)
    return max(lost) if len(lost) > at_most(strategy.max_unreachable, len(findings)) else 0


def _digest(said: Any) -> str:
    return digests.of_bytes(canonical(said))

"""The best type a device can hold, and why.

Knows profiles, shapes and sizes; not how a type is built nor how good it is: candidates come best first.

Laws: what is chosen fits the memory and the storage of the profile; with more memory the choice is never
worse (fast enough goes before too slow, then rank decides; within one format it is never a worse type); the
same question has the same answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from slmops.errors import DoesNotFitError
from slmops.profile.device import DeviceProfile, Format
from slmops.profile.footprint import Footprint, ModelShape, footprint, predict_decode
from slmops.profile.reading import DeviceFacts
from slmops.profile.sizes import human_size

_CONTEXT_STEP = 64
"""A smaller context is suggested in steps of this."""


@dataclass(frozen=True)
class Candidate:
    """One way to build the model."""

    format: Format
    type: str
    """Q8_0, Q4_K_M, INT8, ..."""
    weight_bytes: int

    def __str__(self) -> str:
        """Name it as people do: Q8_0 (gguf)."""
        return f"{self.type} ({self.format})"


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, what it needs, and what became of the others."""

    candidate: Candidate
    footprint: Footprint
    tokens_per_second: float
    reason: str
    rejected: list[tuple[Candidate, str]]


@dataclass(frozen=True)
class _Judged:
    """A candidate held against a profile."""

    candidate: Candidate
    need: Footprint
    speed: float
    short: str
    """What it lacks, in words; empty when it fits."""


def choose(profile: DeviceProfile, shape: ModelShape, candidates: Sequence[Candidate]) -> Choice:
    """Choose among `candidates`, which stand in order of quality within their format, the best first.

    The preferred format of the profile goes first. Of those that fit, the first that reaches
    `serve.min_tokens_per_second` is chosen; if none does, the fastest. Raise DoesNotFitError when none fits,
    saying how much is short and what would fit.
    """
    taken = [candidate for candidate in dict.fromkeys(candidates) if candidate.format in profile.formats]
    taken.sort(key=lambda candidate: profile.formats.index(candidate.format))
    judged = [_judge(profile, shape, candidate) for candidate in taken]
    fitting = [one for one in judged if not one.short]
    if not fitting:
        raise _nothing_fits(profile, shape, judged)
    wanted = profile.serve.min_tokens_per_second
    fast = [one for one in fitting if one.speed >= wanted]
    best = fast[0] if fast else max(fitting, key=lambda one: one.speed)
    return Choice(
        candidate=best.candidate,
        footprint=best.need,
        tokens_per_second=best.speed,
        reason=_why(profile, best, len(judged)),
        rejected=[(one.candidate, _why_not(one, best, wanted)) for one in judged if one is not best]
        + [(other, f"{profile.name} takes no {other.format}") for other in candidates if other not in taken],
    )


def compatible(*, arch: str, memory_bytes: int, disk_bytes: int, have: DeviceFacts) -> list[str]:
    """Say what a device lacks for an artifact, before anything is sent; an empty list when it lacks nothing.

    Memory is what the device says is available, else all it has; what it does not say, it lacks.
    """
    lacks = []
    if have.arch != arch:
        lacks.append(f"built for {arch}, and the device is {have.arch or 'of unknown architecture'}")
    memory = have.memory_total if have.memory_available is None else have.memory_available
    for what, needed, there in (("memory", memory_bytes, memory), ("disk", disk_bytes, have.disk_free)):
        if there is None:
            lacks.append(f"needs {human_size(needed)} of {what}, and how much is free could not be read")
        elif needed > there:
            lacks.append(_short(what, needed, there))
    return lacks


def _judge(profile: DeviceProfile, shape: ModelShape, candidate: Candidate) -> _Judged:
    """Hold one candidate against a profile."""
    need = _need(profile, shape, candidate, profile.serve.context)
    speed = predict_decode(profile.memory.bandwidth, candidate.weight_bytes, need.kv_cache)
    short = ""
    if need.total > profile.memory.budget:
        short = _short("memory", need.total, profile.memory.budget)
    elif candidate.weight_bytes > profile.storage.free:
        short = _short("storage", candidate.weight_bytes, profile.storage.free)
    return _Judged(candidate, need, speed, short)


def _need(profile: DeviceProfile, shape: ModelShape, candidate: Candidate, context: int) -> Footprint:
    micro_batch = min(profile.serve.micro_batch, context)
    return footprint(shape, candidate.weight_bytes, context, micro_batch, candidate.format)


def _short(what: str, needed: int, there: int) -> str:
    short = human_size(needed - there)
    return f"needs {human_size(needed)} of {what}, {human_size(there)} is there: {short} short"


def _why(profile: DeviceProfile, best: _Judged, among: int) -> str:
    """Say why the best is the best."""
    wanted = profile.serve.min_tokens_per_second
    facts = (
        f"{human_size(best.need.total)} of {human_size(profile.memory.budget)} memory, "
        f"about {best.speed:.1f} tokens/s"
    )
    if best.speed >= wanted and among == 1:
        return f"{best.candidate} was asked for and fits {profile.name}: {facts}"
    if best.speed >= wanted:
        return f"{best.candidate} is the best of {among} that fits {profile.name}: {facts}"
    return (
        f"nothing fits {profile.name} and reaches {wanted:g} tokens/s; {best.candidate} is fastest: {facts}"
    )


def _why_not(one: _Judged, best: _Judged, wanted: float) -> str:
    """Say why another was not chosen."""
    if one.short:
        return one.short
    if one.speed < wanted:
        return f"about {one.speed:.1f} tokens/s, and at least {wanted:g} are wanted"
    return f"fits, and ranks after {best.candidate}"


def _nothing_fits(profile: DeviceProfile, shape: ModelShape, judged: Sequence[_Judged]) -> DoesNotFitError:
    """Say what is short for the smallest candidate, and what would help."""
    if not judged:
        return DoesNotFitError(f"nothing to choose from: {profile.name} takes {' or '.join(profile.formats)}")
    smallest = min(judged, key=lambda one: one.need.total)
    context = _largest_context(profile, shape, smallest.candidate)
    if smallest.need.total <= profile.memory.budget:
        remedy = "Make room on the device and say so in storage.free, or take a smaller model."
    elif context:
        remedy = f"It would fit with serve.context: {context}."
    else:
        total = human_size(smallest.need.total + profile.memory.reserve)
        remedy = f"Take a smaller model, or a device with {total} of memory."
    return DoesNotFitError(
        f"even {smallest.candidate} does not fit {profile.name} at a context of {profile.serve.context}: "
        f"it {smallest.short}",
        remedy=remedy,
    )


def _largest_context(profile: DeviceProfile, shape: ModelShape, candidate: Candidate) -> int:
    """Return the largest context that fits the memory, in steps of 64; 0 when none does."""
    steps = range(_CONTEXT_STEP, profile.serve.context, _CONTEXT_STEP)
    fit = bisect_right(
        steps, profile.memory.budget, key=lambda context: _need(profile, shape, candidate, context).total
    )
    return steps[fit - 1] if fit else 0

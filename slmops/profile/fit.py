"""Which ways to build a model a device can bear, and why not the others.

Knows profiles, shapes and sizes; not how a type is built nor how good it is.

Laws: what fits stays fitting with more memory, storage or bandwidth; the largest file that is said to fit
does fit, and one byte more does not; the same question has the same answer.
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

VERSIONS = 2
"""Of a model lie side by side on a device while one replaces the other."""
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
class Fit:
    """A candidate held against a profile."""

    candidate: Candidate
    need: Footprint
    tokens_per_second: float
    """Predicted, while decoding."""
    short: str
    """What the device lacks for it, in words; empty when it fits."""
    slow: str
    """Why it is too slow, in words; empty when it is fast enough."""


def hold(profile: DeviceProfile, shape: ModelShape, candidates: Sequence[Candidate]) -> list[Fit]:
    """Hold each candidate against the profile, in the order given."""
    return [_hold(profile, shape, candidate) for candidate in candidates]


def nothing_fits(profile: DeviceProfile, shape: ModelShape, fits: Sequence[Fit]) -> DoesNotFitError:
    """Return the error that says what is short for the smallest candidate, and what would help."""
    taken = [fit for fit in fits if fit.candidate.format in profile.formats]
    if not taken:
        return DoesNotFitError(f"nothing to choose from: {profile.name} takes {' or '.join(profile.formats)}")
    smallest = min(taken, key=lambda fit: fit.need.total)
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


def most_bytes(profile: DeviceProfile, shape: ModelShape, format: Format) -> int:  # noqa: A002
    """Return the size of the largest model file that fits and is fast enough; 0 when none is."""
    sizes = range(1, profile.storage.free // VERSIONS + 1)

    def too_much(nbytes: int) -> bool:
        fit = _hold(profile, shape, Candidate(format, "", nbytes))
        return bool(fit.short or fit.slow)

    found = bisect_right(sizes, False, key=too_much)
    return sizes[found - 1] if found else 0


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


def _hold(profile: DeviceProfile, shape: ModelShape, candidate: Candidate) -> Fit:
    need = _need(profile, shape, candidate, profile.serve.context)
    speed = predict_decode(profile.memory.bandwidth, candidate.weight_bytes, need.kv_cache, shape.layers)
    wanted = profile.serve.min_tokens_per_second
    short = ""
    if candidate.format not in profile.formats:
        short = f"{profile.name} takes no {candidate.format}"
    elif need.total > profile.memory.budget:
        short = _short("memory", need.total, profile.memory.budget)
    elif VERSIONS * candidate.weight_bytes > profile.storage.free:
        both = "storage for the old version and the new"
        short = _short(both, VERSIONS * candidate.weight_bytes, profile.storage.free)
    slow = "" if speed >= wanted else f"about {speed:.2g} tokens/s, and at least {wanted:g} are wanted"
    return Fit(candidate, need, speed, short, slow)


def _need(profile: DeviceProfile, shape: ModelShape, candidate: Candidate, context: int) -> Footprint:
    micro_batch = min(profile.serve.micro_batch, context)
    return footprint(shape, candidate.weight_bytes, context, micro_batch, candidate.format)


def _short(what: str, needed: int, there: int) -> str:
    short = human_size(needed - there)
    return f"needs {human_size(needed)} of {what}, {human_size(there)} is there: {short} short"


def _largest_context(profile: DeviceProfile, shape: ModelShape, candidate: Candidate) -> int:
    """Return the largest context that fits the memory, in steps of 64; 0 when none does."""
    steps = range(_CONTEXT_STEP, profile.serve.context, _CONTEXT_STEP)
    fit = bisect_right(
        steps, profile.memory.budget, key=lambda context: _need(profile, shape, candidate, context).total
    )
    return steps[fit - 1] if fit else 0

"""What devices of a kind report of themselves, made into the figures of their profile.

It knows nothing of fleets and clocks: who asked the devices, and when, is told.

Laws: a figure is the median over devices, so that one odd device among three cannot move it past its
neighbours; what a device reports counts only with enough requests behind it and a model too large for the
caches of a cpu; memory is only ever taken from a profile's budget, never added; refined again by the same
reports, a profile stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from slmops.errors import DeviceError
from slmops.profile.device import DeviceProfile
from slmops.profile.footprint import bandwidth_of
from slmops.profile.sizes import UNITS, exact_size, human_size, parse_size

FEWEST_REQUESTS = 20
FEWEST_TOKENS = 500
"""Of one device, after the first of each answer."""
SMALLEST_MODEL = 64 * UNITS["MiB"]
"""A smaller model stays in the caches of a cpu, and says nothing of the memory behind them."""
_SOURCE = "bandwidth measured on "
"""How the source of a refined figure begins; the next refinement replaces it."""
_KEPT = "of the reserve for what was not predicted"
"""How the same source ends where the reserve has grown: it says by how much."""


@dataclass(frozen=True)
class Observation:
    """What one device reports of the release it serves."""

    device: str
    requests: int
    tokens: int
    """Tokens that were decoded, the first of each answer left out."""
    seconds: float
    """What those took."""
    weight_bytes: int
    cache_bytes: float
    """Bytes of the cache that a token read, on average."""
    layers: int
    predicted_bytes: int
    """Memory that the daemon was predicted to take."""
    peak_bytes: int | None = None
    """Memory that it took at most; None when the device does not say."""
    mapped_bytes: int = 0
    """Of the peak, what the kernel can take back: mapped pages of the model's file."""

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of decoding."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def bandwidth(self) -> float | None:
        """Return the bytes per second that explain the speed; None when memory is not its limit."""
        speed = self.tokens_per_second
        return bandwidth_of(speed, self.weight_bytes, self.cache_bytes * 2, self.layers) if speed else None

    @property
    def lacking(self) -> str:
        """Say why this is too little to go by; empty when it is enough."""
        if self.requests < FEWEST_REQUESTS or self.tokens < FEWEST_TOKENS:
            return (
                f"{self.requests} requests and {self.tokens} tokens are too few: "
                f"expected {FEWEST_REQUESTS} and {FEWEST_TOKENS}"
            )
        if self.weight_bytes < SMALLEST_MODEL:
            return (
                f"its model has {human_size(self.weight_bytes)} and stays in the caches of the cpu: "
                f"expected {human_size(SMALLEST_MODEL)} or more"
            )
        return "" if self.bandwidth else "it is slower for other reasons than memory"


@dataclass(frozen=True)
class Refinement:
    """A profile before and after, and what it went by."""

    before: DeviceProfile
    after: DeviceProfile
    used: tuple[Observation, ...]
    left_out: tuple[tuple[str, str], ...]
    """Devices, and why they were not used."""
    shortfall: int
    """Bytes by which daemons took more than was predicted, the median; 0 when they did not."""

    @property
    def speed_factor(self) -> float:
        """Return by what predicted tokens per second are multiplied, where memory is the limit."""
        return self.after.memory.bandwidth / self.before.memory.bandwidth


def refine(
    profile: DeviceProfile,
    observations: Sequence[Observation],
    silent: Sequence[tuple[str, str]],
    today: str,
) -> Refinement:
    """Return `profile` with the bandwidth and the reserve that its devices' reports come to.

    `silent` are devices that told nothing, and why; `today` is the date that the source names. Raise
    DeviceError, saying what each device lacks, when there is nothing to go by.
    """
    used = tuple(one for one in observations if not one.lacking)
    left_out = (*silent, *((one.device, one.lacking) for one in observations if one.lacking))
    if not used:
        told = "; ".join(f"{device}: {why}" for device, why in left_out) or "the fleet has none"
        raise DeviceError(
            f"no device of profile {profile.name} has reported enough: {told}",
            remedy=f"A device counts when it serves a model of {human_size(SMALLEST_MODEL)} or more and has "
            f"answered {FEWEST_REQUESTS} requests with {FEWEST_TOKENS} tokens; see `slmops status`.",
        )
    bandwidth = _three_digits(median(one.bandwidth or 0.0 for one in used))
    shortfall = max(0, int(median([_short(one) for one in used])))
    requests = sum(one.requests for one in used)
    devices = f"{len(used)} device" + ("s" if len(used) > 1 else "")
    source = f"{_SOURCE}{devices}, {requests} requests, {today}"
    before = _grown(profile)
    after = max(before, shortfall)
    source += f"; {exact_size(after)} {_KEPT}" if after else ""
    reserve = profile.memory.reserve - before + after
    memory = profile.memory.model_copy(update={"bandwidth": bandwidth, "reserve": reserve})
    sources = (*(said for said in profile.sources if not said.startswith(_SOURCE)), source)
    refined = DeviceProfile.model_validate({**dict(profile), "memory": dict(memory), "sources": sources})
    return Refinement(profile, refined, used, left_out, shortfall)


def _grown(profile: DeviceProfile) -> int:
    """Return the bytes by which earlier refinements made the reserve larger."""
    said = (re.search(rf"; (\S+) {_KEPT}$", one) for one in profile.sources if one.startswith(_SOURCE))
    return sum(parse_size(found[1]) for found in said if found)


def _short(one: Observation) -> int:
    """Return the bytes that were certainly needed and not predicted, below zero when there were fewer."""
    return -1 if one.peak_bytes is None else one.peak_bytes - one.mapped_bytes - one.predicted_bytes


def _three_digits(figure: float) -> int:
    """Round down: a profile's figure is one to rely on."""
    scale = int("1".ljust(len(str(int(figure))) - 2, "0"))
    return int(figure) // scale * scale

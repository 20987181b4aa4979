"""Which of the models that were built is the best one for a device, and why.

Pure: measured outcomes in, one of them out, with the reason in words.

Laws: what is chosen fits the device, keeps the gate, and is fast enough if any such outcome is; no
other outcome that does so is both smaller in memory and closer to the source; the order in which
outcomes are given does not matter; where something is fast enough, with more memory the choice never
lies further from the source, unless it lies below `enough`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmops.build.plan import Make
from slmops.build.quality import Loss, Quality
from slmops.errors import DoesNotFitError, QualityError
from slmops.profile.device import DeviceProfile
from slmops.profile.fit import Fit
from slmops.profile.sizes import human_size

CHOSEN = "chosen"
"""The verdict on the best."""


@dataclass(frozen=True)
class Outcome:
    """A model that was built and measured, held against one profile."""

    make: Make
    bytes: int
    bits_per_weight: float
    fit: Fit
    measured: Loss


@dataclass(frozen=True)
class Pick:
    """The best outcome, and what is to be said of every one."""

    best: Outcome
    reason: str
    verdicts: tuple[tuple[Outcome, str], ...]
    """Each outcome in the order given; the chosen one's verdict is `chosen`."""


def pick(profile: DeviceProfile, outcomes: Sequence[Outcome], quality: Quality | None) -> Pick:
    """Return the best of `outcomes`; raise QualityError when none that fits keeps the gate.

    Without a gate the first is taken: it was asked for by name. Raise DoesNotFitError when it does not fit.
    """
    if quality is None:
        return _asked_for(profile, outcomes[0])
    sound = [one for one in outcomes if not one.fit.short and not quality.complaint(one.measured)]
    if not sound:
        raise _none_is_sound(profile, outcomes, quality)
    fast = [one for one in sound if not one.fit.slow]
    best = _best(fast, quality) if fast else min(sound, key=_by_speed)
    verdicts = tuple((one, CHOSEN if one is best else _why_not(one, best, quality)) for one in outcomes)
    bearable = sum(not (one.fit.short or one.fit.slow) for one in outcomes)
    return Pick(best, _why(profile, best, quality, among=bearable, slow=not fast), verdicts)


def _asked_for(profile: DeviceProfile, one: Outcome) -> Pick:
    if one.fit.short:
        # It was foretold to fit, and came out larger.
        raise DoesNotFitError(f"{one.make} does not fit {profile.name}: it {one.fit.short}")
    facts = f"{human_size(one.fit.need.total)} of {human_size(profile.memory.budget)} memory"
    return Pick(one, f"{one.make} was asked for and fits {profile.name}: {facts}", ((one, CHOSEN),))


def _by_speed(one: Outcome) -> tuple[float, float, int, Make]:
    return -one.fit.tokens_per_second, one.measured.kl_mean, one.fit.need.total, one.make


def _best(sound: Sequence[Outcome], quality: Quality) -> Outcome:
    """Of those that are good enough the smallest in memory; else the one closest to the source."""
    good = [one for one in sound if one.measured.kl_mean <= quality.enough]
    if good:
        return min(good, key=lambda one: (one.fit.need.total, one.bytes, one.measured.kl_mean, one.make))
    return min(sound, key=lambda one: (one.measured.kl_mean, one.fit.need.total, one.bytes, one.make))


def _why(profile: DeviceProfile, best: Outcome, quality: Quality, *, among: int, slow: bool) -> str:
    loss = f"divergence {best.measured.kl_mean:.2g}"
    facts = f"{human_size(best.fit.need.total)} of {human_size(profile.memory.budget)} memory"
    if slow:
        return (
            f"nothing that keeps the gate reaches {profile.serve.min_tokens_per_second:g} tokens/s on "
            f"{profile.name}; {best.make} is fastest: {loss}, {facts}"
        )
    if among == 1:
        return f"{best.make} keeps the gate, the only one tried that {profile.name} can bear: {loss}, {facts}"
    if best.measured.kl_mean <= quality.enough:
        return (
            f"{best.make} is the smallest of {among} that {profile.name} can bear to keep the gate and be "
            f"good: {loss}, where {quality.enough:g} is enough; {facts}"
        )
    return f"{best.make} is closest to the source of {among} that {profile.name} can bear: {loss}, {facts}"


def _why_not(one: Outcome, best: Outcome, quality: Quality) -> str:
    lacks = one.fit.short or quality.complaint(one.measured) or one.fit.slow
    if lacks:
        return lacks
    if best.measured.kl_mean <= quality.enough:
        return "larger" if one.measured.kl_mean <= quality.enough else "worse"
    return "farther"


def bound_of(one: Loss, quality: Quality) -> str:
    """Return which bound of the gate is not kept, in a word; empty when all are."""
    said = quality.complaint(one)
    return {"mean": "KL", "same": "same", "": ""}.get(said.partition(" ")[0], "ppl")


def _none_is_sound(profile: DeviceProfile, outcomes: Sequence[Outcome], quality: Quality) -> QualityError:
    nearest = min(outcomes, key=lambda one: (bool(one.fit.short), one.measured.kl_mean))
    return QualityError(
        f"nothing that fits {profile.name} keeps the gate; nearest comes {nearest.make}: "
        f"{nearest.fit.short or quality.complaint(nearest.measured)}",
        remedy="Ask for less with --quality small or a gate of your own in a recipe, give --calibration, "
        "or take a smaller model that was trained to be one.",
    )

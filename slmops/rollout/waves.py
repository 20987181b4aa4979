"""A fleet, cut into waves.

Laws: every device is in exactly one wave; a canary of every kind has each kind in it, or as many kinds as
`most` of the fleet, and every value of its first key; no wave is empty; the order within the fleet is
kept within each wave; whom no wave names go last; the same fleet is cut the same way.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmops.fleet.inventory import Device
from slmops.fleet.selector import pick
from slmops.fleet.strategy import (
    PER_PROFILE,
    PROFILE,
    Advance,
    Canary,
    Share,
    Step,
    Strategy,
    at_least_one,
)

CANARY = "canary"
REST = "the rest"


@dataclass(frozen=True)
class Wave:
    """Devices that get the release together, and the terms they get it on."""

    devices: tuple[Device, ...]
    soak: float
    """Seconds to wait after it."""
    advance: Advance
    max_failures: Share
    name: str

    def terms(self) -> dict[str, Any]:
        """Return what is to be known of it besides its devices."""
        return {name: value for name, value in vars(self).items() if name != "devices"}


def cut(devices: Sequence[Device], strategy: Strategy) -> list[Wave]:
    """Return the canary and the waves after it; shares are of the whole fleet, cumulative."""
    waves: list[Wave] = []
    left = list(devices)
    said = [Step(share=wave) if isinstance(wave, int | str) else wave for wave in strategy.waves]
    for name, step in [(CANARY, None), *((_name(step), step) for step in said), (REST, Step(share="100%"))]:
        picked = _canary(devices, strategy.canary) if step is None else _picked(step, left, len(devices))
        if picked:
            waves.append(_on_terms(name, picked, step or Step(share="100%"), strategy))
            gone = {device.name for device in picked}
            left = [device for device in left if device.name not in gone]
    return waves


def again(terms: Sequence[Mapping[str, Any]], placed: Sequence[tuple[int, Device]]) -> list[Wave]:
    """Return the waves that had these terms, of devices each with the number of its wave, from 1 on."""
    return [
        Wave(tuple(device for at, device in placed if at == number), **said)
        for number, said in enumerate(terms, 1)
    ]


def _name(step: Step) -> str:
    if step.select is not None:
        return step.select
    return f"{step.share} devices" if isinstance(step.share, int) else str(step.share)


def _on_terms(name: str, picked: Sequence[Device], step: Step, strategy: Strategy) -> Wave:
    return Wave(
        devices=tuple(picked),
        soak=strategy.soak if step.soak is None else step.soak,
        advance=step.advance or strategy.advance,
        max_failures=strategy.max_failures if step.max_failures is None else step.max_failures,
        name=name,
    )


def _picked(step: Step, left: Sequence[Device], whole: int) -> Sequence[Device]:
    if step.select is not None:
        return pick(left, step.select)
    done = whole - len(left)
    return left[: max(0, at_least_one(step.share or 0, whole) - done)]


def _canary(devices: Sequence[Device], said: Share | Canary) -> Sequence[Device]:
    if said == PER_PROFILE:
        said = Canary(each=(PROFILE,))
    if isinstance(said, Canary):
        return _one_of_each(devices, said)
    return devices[: at_least_one(said, len(devices))]


def _one_of_each(devices: Sequence[Device], canary: Canary) -> list[Device]:
    """Take the first device of every kind, thinned out to `most`; then second ones, up to `least`."""
    kinds: Counter[tuple[str | None, ...]] = Counter()
    values: Counter[str | None] = Counter()
    order = []
    for at, device in enumerate(devices):
        kind = tuple(_value(device, key) for key in canary.each)
        order.append((values[kind[0]] > 0, kinds[kind], at))
        values[kind[0]] += 1
        kinds[kind] += 1
    size = max(len(values), canary.least, min(len(kinds), at_least_one(canary.most, len(devices))))
    return [devices[at] for at in sorted(at for *_, at in sorted(order)[:size])]


def _value(device: Device, key: str) -> str | None:
    return device.profile if key == PROFILE else device.labels.get(key)

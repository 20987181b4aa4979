"""A fleet, cut into waves.

Laws: every device is in exactly one wave; a canary per profile has every profile in it; no wave is
empty; the order within the fleet is kept; the same fleet is cut the same way.
"""

from collections.abc import Sequence

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import PER_PROFILE, Strategy, at_least_one


def cut(devices: Sequence[Device], strategy: Strategy) -> list[list[Device]]:
    """Return the canary and the waves after it; later shares are of the whole fleet, cumulative."""
    if not devices:
        return []
    canary = _canary(devices, strategy)
    rest = [device for device in devices if device not in canary]
    waves, done = [canary], len(canary)
    for share in [*strategy.waves, "100%"]:
        wanted = at_least_one(share, len(devices)) - done
        if wanted > 0 and rest:
            waves.append(rest[:wanted])
            rest, done = rest[wanted:], done + wanted
    return waves


def _canary(devices: Sequence[Device], strategy: Strategy) -> list[Device]:
    if strategy.canary == PER_PROFILE:
        first = {device.profile: device for device in reversed(devices)}.values()
        return [device for device in devices if device in first]
    return list(devices[: at_least_one(strategy.canary, len(devices))])

"""A fleet, cut into waves.

Laws: every device is in exactly one wave; the first wave has a device of every profile; a later
wave is never empty; the order within the fleet is kept; the same fleet is cut the same way.
"""

from collections.abc import Sequence

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Strategy, at_least_one


def cut(devices: Sequence[Device], strategy: Strategy) -> list[list[Device]]:
    """Return the canary and the waves after it; later shares are of the whole fleet, cumulative."""
    if not devices:
        return []
    canary = _canary(devices, at_least_one(strategy.canary, len(devices)))
    rest = [device for device in devices if device not in canary]
    waves, done = [canary], len(canary)
    for share in [*strategy.waves, "100%"]:
        wanted = at_least_one(share, len(devices)) - done
        if wanted > 0 and rest:
            waves.append(rest[:wanted])
            rest, done = rest[wanted:], done + wanted
    return waves


def _canary(devices: Sequence[Device], wanted: int) -> list[Device]:
    first_of_profile = {device.profile: device for device in reversed(devices)}.values()
    picked = {device.name for device in first_of_profile}
    for device in devices:
        if len(picked) >= wanted:
            break
        picked.add(device.name)
    return [device for device in devices if device.name in picked]

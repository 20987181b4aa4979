"""Which known profile a device is, by what it says of itself.

Laws: a profile matches only a device of its architecture that has all its features; of several the one whose
expression matched the longest text wins, then the one with the nearest memory, then the first by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from slmops.profile.device import DeviceProfile
from slmops.profile.reading import DeviceFacts


def nearest(facts: DeviceFacts, profiles: Iterable[DeviceProfile]) -> DeviceProfile | None:
    """Return the profile that describes this device best, or None when none does."""
    matches = [(profile, length) for profile in profiles if (length := _matched(facts, profile))]
    if not matches:
        return None
    memory = facts.memory_total or 0
    return min(matches, key=lambda match: (-match[1], abs(match[0].memory.total - memory), match[0].name))[0]


def _matched(facts: DeviceFacts, profile: DeviceProfile) -> int:
    """Return how many characters of the board's or the cpu's name a profile recognises; 0 if it is not it."""
    if profile.detect is None or profile.arch != facts.arch:
        return 0
    if facts.features and not set(profile.cpu.features) <= set(facts.features):
        return 0
    found = (re.search(profile.detect, text) for text in (facts.board, facts.cpu_model) if text)
    return max((len(match[0]) for match in found if match), default=0)

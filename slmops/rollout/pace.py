"""Who of a wave may begin now, and when time alone lets somebody begin.

Four bounds hold at once: so many devices in parallel, so many with the same value of a label, so many in a
minute, and each device's own hours. Laws: whoever may start is waiting, in the order they wait, and all of
them together keep every bound; whoever looks again after `wake`, or when a device ends where that is None,
always gets on, since a value of the label of which nobody is worked on may always have one.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from slmops.fleet.inventory import Device
from slmops.fleet.strategy import Rate, Strategy, at_most
from slmops.fleet.window import is_open, opens_in
from slmops.rollout.assignment import UNDER_WAY, State

DOWN = frozenset({State.STUCK, State.LOST})
"""Ends of devices that may not serve."""
_GROWN_UP = 64
"""Times that a rate is multiplied at the most; it is no bound any more by then."""


@dataclass(frozen=True)
class Clock:
    """What time it is, and what this rollout has done by then."""

    now: float
    """Unix seconds."""
    starts: Sequence[float] = ()
    """When devices began, in unix seconds."""
    succeeded: int = 0
    """Devices that ended well."""


class Pace:
    """How a fleet may be gone through; what depends on all its devices is counted once.

    `everyone` has the fleet's devices by name: a share of those with one value of a label is a share of
    these. Of `states` only devices that are worked on or down matter; the others may be left out.
    """

    def __init__(self, everyone: Mapping[str, Device], strategy: Strategy) -> None:
        self._everyone, self._strategy = everyone, strategy
        self._by = strategy.max_unavailable.by
        self._sizes = Counter(device.labels.get(self._by) for device in everyone.values())

    def may_start(self, waiting: Sequence[Device], states: Mapping[str, State], clock: Clock) -> list[Device]:
        """Return who of `waiting` may begin now, all of them together."""
        strategy = self._strategy
        room = min(self._free(states), _left_in_minute(strategy.rate, clock))
        if room == 0:
            return []
        zones = {device.timezone for device in waiting} if strategy.windows else set()
        closed = {zone for zone in zones if not is_open(strategy.windows, zone, clock.now)}
        there = (device for device in waiting if device.timezone not in closed)
        return list(islice(self._admitted(there, states), room))

    def wake(self, waiting: Sequence[Device], states: Mapping[str, State], clock: Clock) -> float | None:
        """Return the seconds until time alone lets somebody of `waiting` begin; 0 where somebody may now.

        None where only a device that ends lets the next one begin, or nobody waits.
        """
        if self._free(states) == 0:
            return None
        at = _minute_has_room_at(self._strategy.rate, clock)
        busy, down = self._count(states, UNDER_WAY), self._count(states, DOWN)
        zones = {device.timezone for device in waiting if self._has_room(self._value(device), busy, down)}
        windows = self._strategy.windows
        return min((at - clock.now + opens_in(windows, zone, at) for zone in zones), default=None)

    def _free(self, states: Mapping[str, State]) -> int:
        return max(0, self._strategy.max_parallel - sum(state in UNDER_WAY for state in states.values()))

    def _admitted(self, devices: Iterator[Device], states: Mapping[str, State]) -> Iterator[Device]:
        """Yield those that may be worked on beside whoever is, and whoever was yielded before."""
        busy, down = self._count(states, UNDER_WAY), self._count(states, DOWN)
        for device in devices:
            value = self._value(device)
            if self._has_room(value, busy, down):
                busy[value] += 1
                yield device

    def _has_room(self, value: str | None, busy: Counter[str | None], down: Counter[str | None]) -> bool:
        """Say whether one more with this value of the label may be worked on."""
        if value is None or busy[value] == 0:
            return True
        most = at_most(self._strategy.max_unavailable.most, self._sizes[value])
        return busy[value] + down[value] < most

    def _count(self, states: Mapping[str, State], which: frozenset[State]) -> Counter[str | None]:
        return Counter(
            self._value(self._everyone[name])
            for name, state in states.items()
            if state in which and name in self._everyone
        )

    def _value(self, device: Device) -> str | None:
        return device.labels.get(self._by)


def _left_in_minute(rate: Rate | None, clock: Clock) -> int:
    """Return how many more may begin now by the rate."""
    if rate is None:
        return sys.maxsize
    count, span = _bound(rate, clock.succeeded)
    return max(0, count - len(_lately(span, clock)))


def _minute_has_room_at(rate: Rate | None, clock: Clock) -> float:
    """Return the instant from which one more may begin by the rate."""
    if rate is None:
        return clock.now
    count, span = _bound(rate, clock.succeeded)
    lately = _lately(span, clock)
    return lately[-count] + span if len(lately) >= count else clock.now


def _bound(rate: Rate, succeeded: int) -> tuple[int, float]:
    """Return how many devices may begin in how many seconds: about a minute, so that they are whole."""
    now = rate.per_minute * rate.factor ** min(succeeded // rate.after, _GROWN_UP)
    count = max(1, int(now))
    return count, 60 * count / now


def _lately(span: float, clock: Clock) -> list[float]:
    """Return the starts of the last `span` seconds, in order; one yet to come is of a clock set back."""
    return sorted(start for start in clock.starts if start <= clock.now < start + span)

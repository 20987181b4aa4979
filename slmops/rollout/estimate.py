"""How long a rollout may take, by what earlier ones took.

It knows seconds and bytes, no devices. What was never measured on a profile is not known, and nothing is
made up for it: where the fleet file says how fast bytes go, sending alone is foretold, a lower bound.

Laws: more bytes never take less and more hands never longer; a wave takes at least its longest device, and,
without a rate, at most all of them one after the other; of a whole as much is known as of the part that is
known least.
"""

import heapq
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import median

from slmops.fleet.strategy import Rate
from slmops.rollout.plan import Known

TELLING = 256 << 10
"""Bytes below which a transfer tells of the link's delay, not of its speed."""
MINUTE = 60.0
FASTEST = 1e6
MOST_GROWN = 64
"""Devices a minute, and times that a rate is multiplied, beyond which it is no bound."""


@dataclass(frozen=True)
class Past:
    """What one device took to get a release."""

    profile: str | None
    sent: int
    """Bytes on the wire."""
    sending: float
    """Seconds until all of it was there and whole."""
    work: float
    """Seconds for everything after: load, golden prompts, gate, commit."""


@dataclass(frozen=True)
class Pace:
    """How devices of one profile went."""

    bytes_per_second: float | None
    """None where nothing was sent that is large enough to tell."""
    work: float
    """Seconds for everything but sending."""


@dataclass(frozen=True)
class Expected:
    """How long something may take, and how much of that is known."""

    seconds: float | None
    known: Known


UNKNOWN = Expected(None, Known.NOTHING)


@dataclass(frozen=True)
class Job:
    """One device's part in a wave."""

    expected: Expected
    group: str | None = None
    """Whom it may not all be worked on together with: the value of a label."""
    together: int = sys.maxsize
    """How many of the group may be worked on at once; one at the least."""


def learn(pasts: Iterable[Past]) -> dict[str | None, Pace]:
    """Return how devices of each profile went: medians over all of them."""
    by_profile = defaultdict(list)
    for past in pasts:
        by_profile[past.profile].append(past)
    return {profile: _pace(each) for profile, each in by_profile.items()}


def _pace(pasts: Sequence[Past]) -> Pace:
    rates = [past.sent / past.sending for past in pasts if past.sent >= TELLING and past.sending > 0]
    return Pace(median(rates) if rates else None, median(past.work for past in pasts))


def of_device(pace: Pace | None, sends: int, bandwidth: int | None) -> Expected:
    """Return how long a device may take that is sent so many bytes.

    `bandwidth` is what the fleet file allows, in bytes per second; None where it says nothing.
    """
    rates = [rate for rate in (pace and pace.bytes_per_second, bandwidth) if rate]
    if sends and not rates:
        return UNKNOWN
    sending = sends / min(rates) if sends else 0.0
    if pace is not None:
        return Expected(sending + pace.work, Known.WHOLE)
    return Expected(sending, Known.SENDING) if sends else UNKNOWN


def of_wave(jobs: Sequence[Job], hands: int, rate: Rate | None = None) -> Expected:
    """Return how long devices may take together, `hands` at a time, those that come first first.

    Of all that bounds a wave (hands, each group's share of them, the rate) the slowest one counts.
    """
    if any(job.expected.seconds is None for job in jobs):
        return UNKNOWN
    groups = defaultdict(list)
    for job in jobs:
        groups[job.group].append(job)
    bounds = [_span(_seconds(jobs), hands, _starts(rate))]
    bounds += [
        _span(_seconds(group), min(hands, group[0].together), repeat(0.0)) for group in groups.values()
    ]
    return Expected(max(bounds), together(job.expected.known for job in jobs))


def in_turn(parts: Sequence[Expected], pauses: float) -> Expected:
    """Return how long these take one after the other, and `pauses` seconds more."""
    if any(each.seconds is None for each in parts):
        return UNKNOWN
    return Expected(
        sum(each.seconds or 0.0 for each in parts) + pauses, together(each.known for each in parts)
    )


def together(known: Iterable[Known]) -> Known:
    """Return how much is known of all of these: what is known of the least known."""
    return max(known, key=list(Known).index, default=Known.WHOLE)


def _span(seconds: Iterable[float], hands: int, earliest: Iterable[float]) -> float:
    """Return when the last of these ends; `earliest` says for each start how soon it may be."""
    busy, end = list[float](), 0.0
    for took, bound in zip(seconds, earliest, strict=False):
        free = heapq.heappop(busy) if len(busy) >= hands else 0.0
        done = max(free, bound) + took
        heapq.heappush(busy, done)
        end = max(end, done)
    return end


def _starts(rate: Rate | None) -> Iterator[float]:
    """Yield how soon each start may be, were every device before it to end well at once: so many a minute."""
    if rate is None:
        yield from repeat(0.0)
        return
    now, started = 0.0, 0
    while True:
        a_minute = min(FASTEST, rate.per_minute * rate.factor ** min(started // rate.after, MOST_GROWN))
        together = max(1, int(a_minute))
        yield from repeat(now, together)
        now, started = now + MINUTE * together / a_minute, started + together


def _seconds(jobs: Iterable[Job]) -> list[float]:
    return [job.expected.seconds or 0.0 for job in jobs]

"""The few numbers worth showing of many requests: how many, how fast, how many went wrong.

Times are counted in buckets that grow by a fixed ratio, so that summaries of many devices add up to
the summary of all their events; a quantile read from them is within 1 % of the true value. It does
not know where events come from.

Laws: `merge` is associative and commutative with `Summary()` as its zero, and
`merge(summarise(a), summarise(b)) == summarise(a + b)` up to the rounding of sums of seconds.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from slmops.telemetry.events import RequestFinished

OK = 200
CLIENT_ERROR = 400
CLIENT_GONE = 499
SERVER_ERROR = 500
RATIO = 1.02
"""Width of a bucket: from its middle to its edge is under 1 %."""

Sketch = tuple[tuple[int, int], ...]
"""Sorted pairs (bucket, count): how often a time fell into [RATIO**(bucket-1), RATIO**bucket)."""


@dataclass(frozen=True)
class Summary:
    """What a number of requests came to."""

    requests: int = 0
    errors: int = 0
    """Answered with a status of 500 or more."""
    refused: int = 0
    """Answered with a status of 400 or more that was the client's doing, or the full queue's."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    later_tokens: int = 0
    """Output tokens after the first of each answer: what the speed is taken from."""
    later_seconds: float = 0.0
    """Time spent on those."""
    seconds: Sketch = ()
    """Of answered requests, from arrival to the end."""
    first_token: Sketch = ()
    """Of answered requests, from arrival to the first token."""

    @property
    def tokens_per_second(self) -> float | None:
        """Return the speed of generation after the first token; None when nothing was measured."""
        return self.later_tokens / self.later_seconds if self.later_seconds > 0 else None


def summarise(events: Iterable[RequestFinished]) -> Summary:
    """Return the summary of `events`, whatever their order."""
    seen = list(events)
    answered = [event for event in seen if event.status == OK]
    first = [event.first_token_seconds for event in answered if event.first_token_seconds is not None]
    paced = [event for event in seen if event.first_token_seconds is not None and event.output_tokens > 1]
    return Summary(
        requests=len(seen),
        errors=sum(event.status >= SERVER_ERROR for event in seen),
        refused=sum(CLIENT_ERROR <= event.status < CLIENT_GONE for event in seen),
        prompt_tokens=sum(event.prompt_tokens for event in seen),
        output_tokens=sum(event.output_tokens for event in seen),
        later_tokens=sum(event.output_tokens - 1 for event in paced),
        later_seconds=sum(max(0.0, event.seconds - (event.first_token_seconds or 0.0)) for event in paced),
        seconds=_sketch(event.seconds for event in answered),
        first_token=_sketch(first),
    )


def merge(one: Summary, other: Summary) -> Summary:
    """Return the summary of what both have seen."""
    return Summary(
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        refused=one.refused + other.refused,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        later_tokens=one.later_tokens + other.later_tokens,
        later_seconds=one.later_seconds + other.later_seconds,
        seconds=_add(one.seconds, other.seconds),
        first_token=_add(one.first_token, other.first_token),
    )


def quantile(sketch: Sketch, share: float) -> float | None:
    """Return the time that `share` (0 to 1) of the requests stayed within; None when there are none."""
    total = sum(count for _, count in sketch)
    rank = max(1, math.ceil(share * total))
    seen = 0
    for bucket, count in sketch:
        seen += count
        if seen >= rank:
            return float(RATIO ** (bucket - 0.5))
    return None


def _sketch(times: Iterable[float]) -> Sketch:
    """Count times in seconds by bucket; below a microsecond all are alike."""
    counts = Counter(math.floor(math.log(max(seconds, 1e-6), RATIO)) + 1 for seconds in times)
    return tuple(sorted(counts.items()))


def _add(one: Sketch, other: Sketch) -> Sketch:
    counts = Counter(dict(one))
    counts.update(dict(other))
    return tuple(sorted(counts.items()))

"""What a device must show of a slot beyond right answers, and whether it did.

Pure: measurements in, rows and an outcome out. A row judges one number against the artifact's promise or
against the version before on the same device; a bound that has neither to stand on is not judged, and the
row says so.

Laws: a number that is worse never turns a fail into a pass; a number that was wanted and is missing, or is
no number, is inconclusive and never a pass; of several tries the best time counts, for a busy device can
make a model slower and never faster.
This file runs on devices: standard library only, Python 3.9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from slmops.artifact.golden import TOLERANCE
from slmops.errors import DeviceError

PASS, FAIL, INCONCLUSIVE, UNJUDGED = "pass", "fail", "inconclusive", "not judged"
SPEED, LATENCY, MEMORY, ERRORS, LOGPROB = (
    "tokens_per_second",
    "time_to_first_token",
    "memory",
    "error_rate",
    "logprob",
)
CODES = {
    LOGPROB: "GATE_QUALITY",
    SPEED: "GATE_SPEED",
    LATENCY: "GATE_LATENCY",
    MEMORY: "GATE_MEMORY",
    ERRORS: "GATE_ERRORS",
}
NOISY = (SPEED, LATENCY)
"""What a busy device can make look bad."""
SLACK_SECONDS = 0.05
"""By so much a first token may come later whatever the bound: a scheduler's share, not a model's."""
SLACK_TOKEN_SECONDS, SLACK_SERVER_SECONDS = 0.002, 0.004
"""And a token, than one of the version before, and than one of the promise, which is the runtime's alone:
what a server and its reader take shakes by as much, and only of the smallest models is it a large part."""
SLACK_BYTES = 48 << 20
"""And a daemon be larger: an interpreter's share and what a C library keeps."""
PROMISE, BEFORE, ITSELF = "promise", "version before", "bound"
WHERE_POSSIBLE, REQUIRED, OFF = "where-possible", "required", "off"


@dataclass(frozen=True)
class Bounds:
    """What is asked; None asks nothing. What an operator did not say is not asked, but for the tolerance."""

    tolerance: float = TOLERANCE
    """Nats that a reference text may lie off."""
    references: str = WHERE_POSSIBLE
    """where-possible, required or off: whether a daemon that tells no log-probabilities is in doubt."""
    least_speed_of_before: float | None = None
    least_speed_of_promise: float | None = None
    most_first_token_of_before: float | None = None
    most_memory_of_promise: float | None = None
    most_errors: float | None = None
    """Share of requests."""
    watch: float = 0.0
    """Seconds of live traffic to see after the golden prompts."""
    measure_before: bool = False

    @classmethod
    def of(cls, said: dict[str, Any] | None) -> Bounds:
        """Read what the operator says; what a newer one says more is ignored.

        Raises DeviceError for what is no bound: it is asked before anything is switched.
        """
        if not isinstance(said or {}, dict):
            raise DeviceError(f"gate: expected an object, got {str(said)[:40]!a}")
        known = {each.name for each in fields(cls)}
        found = {key: value for key, value in (said or {}).items() if key in known}
        for key, value in found.items():
            if not _can_be(key, value):
                raise DeviceError(f"gate: {key} cannot be {str(value)[:40]!a}")
        return cls(**found)


@dataclass(frozen=True)
class Measured:
    """What was seen of one slot; None: nothing."""

    time_to_first_token: float | None = None
    """Seconds, the median over the golden prompts."""
    tokens_per_second: float | None = None
    """Written after the first token of each answer; held against the promise."""
    answers_per_second: float | None = None
    """Tokens of whole answers by the time that those took, reading the prompt included; held against what
    the version before would have taken for as many. A reader that is late hears a first token late and the
    rest in a burst, which shakes the number above and not this one."""
    answer_tokens: float | None = None
    """Tokens of an answer, on average."""
    memory: float | None = None
    """Peak of the daemon's resident set, in bytes."""
    error_rate: float | None = None
    logprob: float | None = None
    """Nats that the worst reference text lies off."""


@dataclass(frozen=True)
class Row:
    """One bound, judged."""

    what: str
    value: float | None
    bound: float | None
    against: str
    """promise, version before, or bound: one that stands by itself."""
    outcome: str
    why: str = ""


def best(one: Measured, other: Measured) -> Measured:
    """Return what two tries on the same slot show together."""
    return Measured(
        time_to_first_token=_of(min, one.time_to_first_token, other.time_to_first_token),
        tokens_per_second=_of(max, one.tokens_per_second, other.tokens_per_second),
        answers_per_second=_of(max, one.answers_per_second, other.answers_per_second),
        answer_tokens=_of(max, one.answer_tokens, other.answer_tokens),
        memory=_of(max, one.memory, other.memory),
        error_rate=_of(max, one.error_rate, other.error_rate),
        logprob=_of(max, one.logprob, other.logprob),
    )


def judge(
    seen: Measured, bounds: Bounds, promise: Measured, before: Measured, *, wanted: Iterable[str]
) -> list[Row]:
    """Return a row for each bound that is asked.

    `promise` is what the artifact says of itself; `wanted` names what can be measured of this model at all:
    of one that answers in a single token nobody can say how fast it writes.
    """
    first, memory = seen.time_to_first_token, seen.memory
    speed, whole = seen.tokens_per_second, seen.answers_per_second
    latest = _times(bounds.most_first_token_of_before, before.time_to_first_token)
    promised = _times(bounds.least_speed_of_promise, promise.tokens_per_second)
    largest = _times(bounds.most_memory_of_promise, promise.memory)
    was = _times(bounds.least_speed_of_before, _would_take(before, seen.answer_tokens))
    rows = [
        _row(LOGPROB, seen.logprob, None if bounds.references == OFF else bounds.tolerance, ITSELF),
        _row(SPEED, speed, promised and 1 / (1 / promised + SLACK_SERVER_SECONDS), PROMISE),
        _row(SPEED, whole, was and 1 / (1 / was + SLACK_TOKEN_SECONDS), BEFORE),
        _row(LATENCY, first, latest and latest + SLACK_SECONDS, BEFORE),
        _row(MEMORY, memory, largest and max(largest, (promise.memory or 0) + SLACK_BYTES), PROMISE),
        _row(ERRORS, seen.error_rate, bounds.most_errors, ITSELF),
    ]
    able = frozenset(wanted)
    return [row if row.what in able else _unjudged(row, "it cannot be measured here") for row in rows]


def outcome(rows: Iterable[Row]) -> str:
    """Return fail where any row fails, else inconclusive where any is, else pass."""
    found = {row.outcome for row in rows}
    return FAIL if FAIL in found else INCONCLUSIVE if INCONCLUSIVE in found else PASS


def told(seen: Measured) -> dict[str, float]:
    """Return the measurements that there are as JSON has them, which knows no infinity."""
    found = {what: _finite(value) for what, value in asdict(seen).items()}
    return {what: value for what, value in found.items() if value is not None}


def words(row: Row) -> str:
    """Return what a row has to say to a person."""
    value = "no number" if row.value is None else f"{row.value:.4g}"
    sign = "at least" if row.what == SPEED else "at most"
    bound = "" if row.bound is None else f", {sign} {row.bound:.4g} expected ({row.against})"
    return f"{row.what.replace('_', ' ')} {value}{bound}"


def told_row(row: Row) -> dict[str, Any]:
    """Return a row as JSON has it, without what it leaves open."""
    said = {**asdict(row), "value": _finite(row.value), "bound": _finite(row.bound)}
    return {key: value for key, value in said.items() if value not in (None, "")}


def _can_be(key: str, value: Any) -> bool:
    if key == "references":
        return value in (WHERE_POSSIBLE, REQUIRED, OFF)
    if key == "measure_before":
        return isinstance(value, bool)
    if value is None:
        return key not in ("tolerance", "watch")
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _row(what: str, value: float | None, bound: float | None, against: str) -> Row:
    if bound is None or not math.isfinite(bound):
        return _unjudged(
            Row(what, _finite(value), None, against, UNJUDGED), "there is nothing to hold it against"
        )
    if value is None or math.isnan(value):
        return Row(what, None, bound, against, INCONCLUSIVE, "it was not measured")
    kept = value >= bound if what == SPEED else value <= bound
    return Row(what, _finite(value), bound, against, PASS if kept else FAIL)


def _finite(value: float | None) -> float | None:
    """Return a number to as many digits as anybody reads: what is told of a device is kept for long."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _unjudged(row: Row, why: str) -> Row:
    return Row(row.what, row.value, row.bound, row.against, UNJUDGED, why)


def _would_take(before: Measured, tokens: float | None) -> float | None:
    """Return the tokens per second of the version before in answers of so many tokens."""
    first, speed = before.time_to_first_token, before.tokens_per_second
    if first is None or not speed or not tokens or tokens < 1:
        return None
    return tokens / (first + (tokens - 1) / speed)


def _times(share: float | None, of: float | None) -> float | None:
    return None if share is None or of is None or not of > 0 else share * of


def _of(which: Any, one: float | None, other: float | None) -> float | None:
    there = [each for each in (one, other) if each is not None]
    return which(there) if there else None

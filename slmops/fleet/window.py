"""When a device may be worked on: weekly hours on its own wall clock.

It knows nothing of rollouts. Laws: a window is open while the device's wall clock shows a time in it, so an
hour that the clocks skip is skipped and one that comes twice counts twice; a window that ends before it
begins ends on the next day; no windows at all are always open; `opens_in` is the first instant that is open.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slmops.fault import fault

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEK: Final[tuple[Weekday, ...]] = get_args(Weekday)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")
_DAY = timedelta(days=1)
_MINUTES = 24 * 60


def _clock(said: object) -> object:
    if not isinstance(said, str) or _TIME.fullmatch(said) is None:
        raise ValueError("expected a time of day such as 01:00 or 23:30")
    return said


Time = Annotated[
    str,
    BeforeValidator(_clock, json_schema_input_type=str),
    Field(json_schema_extra={"examples": ["01:00", "23:30"]}),
]


class Window(BaseModel):
    """Hours of the week in which a device may begin."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = Field(
        WEEK, description="Days on which it begins, of mon, tue, wed, thu, fri, sat, sun."
    )
    opens: Time = Field(alias="from", description="When it begins, on the device's wall clock.")
    closes: Time = Field(
        alias="to", description="When it ends; on the next day where that is not later than `from`."
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.opens in (self.closes, "24:00"):
            raise fault("it has no length; the whole day is from 00:00 to 24:00", "to")
        return self

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield begin and end on every one of its days, in minutes after Monday 00:00."""
        begin, end = _minutes(self.opens), _minutes(self.closes)
        length = end - begin if end > begin else end - begin + _MINUTES
        for day in self.days:
            start = WEEK.index(day) * _MINUTES + begin
            yield start, start + length


def is_open(windows: Sequence[Window], zone: str, at: float) -> bool:
    """Say whether a device in `zone` (an IANA name) may begin at `at` (unix seconds)."""
    if not windows:
        return True
    local = datetime.fromtimestamp(at, _named(zone))
    now = local.weekday() * _MINUTES + local.hour * 60 + local.minute
    week = 7 * _MINUTES
    return any(
        start <= now < end or start <= now + week < end for window in windows for start, end in window.spans()
    )


def opens_in(windows: Sequence[Window], zone: str, at: float) -> float:
    """Return the seconds from `at` (unix seconds) until a device in `zone` may begin; 0 where it may now."""
    if is_open(windows, zone, at):
        return 0.0
    there = _named(zone)
    today = datetime.fromtimestamp(at, there).date()
    days = [today + _DAY * ahead for ahead in range(-1, 16)]
    instants = sorted({*_beginnings(windows, there, days), *_turns(there, days)})
    return next(instant - at for instant in instants if instant > at and is_open(windows, zone, instant))


def longest_closed(windows: Sequence[Window]) -> float:
    """Return the longest stretch of a week in which no window is open, in seconds; 0 without windows."""
    spans = sorted(span for window in windows for span in window.spans())
    if not spans:
        return 0.0
    longest, reached = 0, max(end for _, end in spans) - 7 * _MINUTES
    for start, end in spans:
        longest = max(longest, start - reached)
        reached = max(reached, end)
    return longest * 60.0


def _beginnings(windows: Sequence[Window], zone: tzinfo, days: Sequence[date]) -> Iterator[float]:
    """Yield when windows begin on `days`; a wall clock that is turned back shows a time twice."""
    for window in windows:
        at = _minutes(window.opens)
        for day in days:
            if WEEK[day.weekday()] not in window.days:
                continue
            for fold in (0, 1):
                yield datetime.combine(day, time(at // 60, at % 60, fold=fold), zone).timestamp()


def _turns(zone: tzinfo, days: Sequence[date]) -> Iterator[float]:
    """Yield when the zone's clocks are turned in `days`: a window may be open from there on."""
    for day in days[:-1]:
        low = int(datetime.combine(day, time(), UTC).timestamp())
        high = low + 24 * 3600
        before = _offset(zone, low)
        if _offset(zone, high) == before:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
        yield float(high)


def _named(zone: str) -> tzinfo:
    """Return a time zone; UTC is there even where the system has no data of others."""
    return UTC if zone == "UTC" else ZoneInfo(zone)


def _offset(zone: tzinfo, at: int) -> timedelta | None:
    return datetime.fromtimestamp(at, zone).utcoffset()


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)

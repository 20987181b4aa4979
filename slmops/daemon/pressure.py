"""How hard pressed for memory a machine is, and whether to take on more work while it is.

Pure: texts of /proc and of a control group in, readings and a verdict out. It does not know where the texts
come from, nor how a request is refused.

Laws: what refuses under pressure goes on refusing until there is clearly more room than when it began
(`ROOM` and `STALL` are pairs for that); more room and less stalling never turn an acceptance into a refusal;
a reading that could not be had speaks neither way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ROOM = (0.04, 0.08)
"""Share of the memory that is free: below the first new requests are refused, from the second on taken."""
STALL = (25.0, 10.0)
"""Per cent of the last ten seconds in which nothing ran for want of memory: from one until the other."""
KIB = 1024


@dataclass(frozen=True)
class Reading:
    """What was read at one moment; None and empty is what could not be."""

    limit: int | None = None
    """Bytes that the control group may have; that of the group, or group of groups, with the least room."""
    used: int | None = None
    """Bytes that it has and that the kernel cannot take back: file pages are not among them."""
    total: int | None = None
    """Bytes of the machine."""
    available: int | None = None
    """Bytes of them that a program could still get without swapping."""
    some: float | None = None
    """Per cent of the last ten seconds in which something waited for memory."""
    full: float | None = None
    """Per cent of the last ten seconds in which everything did."""
    high: int | None = None
    """Times that the control group was slowed down for being above `memory.high`."""
    killed: int | None = None
    """Processes of the control group that the kernel has killed for want of memory."""
    celsius: Mapping[str, float] = field(default_factory=dict)
    """Temperatures, by thermal zone."""
    throttled: bool | None = None
    """The processor runs slower than it could, for heat or for want of voltage."""

    @property
    def room(self) -> float | None:
        """Return the share of memory, 0 to 1, that is free: of the group or of the machine: the less."""
        free = []
        if self.limit and self.used is not None:
            free.append(1 - self.used / self.limit)
        if self.total and self.available is not None:
            free.append(self.available / self.total)
        return max(0.0, min(free)) if free else None


def shed(reading: Reading, *, shedding: bool) -> str:
    """Return why new requests are to be refused now, as a clause for people; empty: they are not.

    `shedding` says whether they were refused until now.
    """
    room, stall = reading.room, reading.full
    if room is not None and room < ROOM[shedding]:
        return f"{room:.0%} of the memory is left"
    if stall is not None and stall >= STALL[shedding]:
        return f"for want of memory nothing ran in {stall:.0f} % of the last ten seconds"
    return ""


def group(text: str) -> str | None:
    """Return the control group (version 2) that /proc/self/cgroup names, as a path; None: there is none."""
    for line in text.splitlines():
        if line.startswith("0::/"):
            return line[len("0::") :]
    return None


def psi(text: str) -> tuple[float | None, float | None]:
    """Return `some` and `full` of a pressure file, in per cent over ten seconds."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        for word in words:
            key, _, value = word.partition("=")
            if key == "avg10":
                found[kind] = float(value)
    return found.get("some"), found.get("full")


def meminfo(text: str) -> tuple[int | None, int | None]:
    """Return the bytes of memory in all, and of those available, from /proc/meminfo."""
    found = counts(text.replace(":", " ").replace(" kB", ""))
    total, available = found.get("MemTotal"), found.get("MemAvailable")
    return (None if total is None else total * KIB), (None if available is None else available * KIB)


def counts(text: str) -> dict[str, int]:
    """Return the numbers of a file that has a name and a number on each line."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}  # noqa: PLR2004


def bound(text: str) -> int | None:
    """Return the bytes that `memory.max` allows; None without a bound, or where it says nothing."""
    said = text.strip()
    return int(said) if said.isdigit() else None


def tightest(groups: list[tuple[int, int]]) -> tuple[int | None, int | None]:
    """Return (limit, used) of the group that has the least room, in share of its limit."""
    return min(groups, key=lambda each: 1 - each[1] / max(1, each[0]), default=(None, None))


def unreclaimable(current: int, stat: Mapping[str, int]) -> int:
    """Return the bytes of a group that the kernel cannot take back at need, from `memory.stat`.

    The model is mapped from its file: to lose pages of it is slow, and `full` tells so, but it kills nobody.
    """
    files = stat.get("inactive_file", 0) + stat.get("active_file", 0) + stat.get("slab_reclaimable", 0)
    return max(0, current - files)

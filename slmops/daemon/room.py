"""Whether a version finds room beside those that are resident, and what must leave for it.

Pure. It does not know processes, the kernel or when memory was read; all sizes are bytes.

Theory. A version that is to be loaded needs what its artifact promises, or what was measured of the very
same digest before, whichever is more: a worker that has just spoken has not yet touched all it will.
What there is room for now is what is left of the daemon's own limit and of the machine, whichever is less.

    parallel     it fits beside all, or beside current once those that serve nobody have left
    sequential   it fits once current has left too: requests wait meanwhile
    refuse       it does not fit even alone, or would have to end a current that nothing may end

Laws: what is refused for lack of room would not have fitted alone; more room never turns a plan into a worse
one; current leaves only where all others have left and it does not fit even so; without a known limit
everything fits; what has served comes back where it alone could be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["parallel", "sequential", "refuse"]
MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """What was read of memory at one moment."""

    limit: int | None = None
    """Bytes that the daemon may take, workers included: its control group's, or what it was told."""
    used: int = 0
    """Bytes of them that it has: what the kernel cannot take back, and what workers have mapped of files."""
    available: int | None = None
    """Bytes that the machine could still give without taking what workers have mapped."""
    residents: Mapping[str, int] = field(default_factory=dict)
    """Bytes that each resident worker would give back, by digest."""
    total: int | None = None
    """Bytes of the machine."""

    @property
    def free(self) -> int | None:
        """Return the bytes that the daemon could still take; None where nothing bounds it."""
        left = [] if self.limit is None else [self.limit - self.used]
        left += [] if self.available is None else [self.available]
        return min(left) if left else None

    @property
    def most(self) -> int | None:
        """Return the bytes that one version could have if nothing else ran; None where nothing bounds it."""
        return min((bound for bound in (self.limit, self.total) if bound is not None), default=None)

    @property
    def told(self) -> str:
        """Return where the memory is, for people: the limit, the router, each version."""
        versions = sum(self.residents.values())
        limit = "no limit is set" if self.limit is None else f"the limit is {self.limit / MIB:.0f} MiB"
        there = "" if self.available is None else f", the machine has {self.available / MIB:.0f} MiB left"
        router = max(0, self.used - versions) / MIB
        many = f"{len(self.residents)} resident versions"
        return f"{limit}{there}, the router takes {router:.0f} MiB, {many} take {versions / MIB:.0f} MiB"


@dataclass(frozen=True)
class Plan:
    """How a version comes in."""

    kind: Kind
    estimate: int
    free: int | None
    """Bytes that there was room for when it was planned."""
    leave: tuple[str, ...] = ()
    """Digests whose workers end first, in order; current is among them only where the plan is sequential."""

    @property
    def why(self) -> str:
        """Return the numbers, for people."""
        room = "nothing bounds it" if self.free is None else f"{max(0, self.free) / MIB:.0f} MiB are free"
        return f"it needs {self.estimate / MIB:.0f} MiB, {room}"


def promise(whole: int, cache: float, context: int, pool: int | None) -> int:
    """Return the bytes that a version needs whose artifact says `whole`, with room for `pool` tokens.

    Of what it says, `cache` are for the keys and values of `context` tokens, the least that there are. In a
    larger pool sequences are copied too: one context's more, for a moment.
    """
    return whole + int(cache * (pool / context if pool is not None and pool > context else 0))


def estimate(promised: int, measured: int) -> int:
    """Return the bytes that a version needs, by its artifact's word and by what was measured of it."""
    return max(promised, measured)


def why_not(memory: Memory, needed: int, *, served: bool) -> str:
    """Return why a version cannot come in before any other has; empty where it can.

    One that has served comes back whatever else the machine does now: only what stays as it is keeps it out.
    """
    most = memory.most
    if most is not None and needed > most:
        return f"it needs {needed / MIB:.0f} MiB, and may have {most / MIB:.0f} MiB at most; {memory.told}"
    first = plan(memory, None, needed)
    return "" if served or first.kind != "refuse" else f"{first.why}; {memory.told}"


def plan(memory: Memory, current: str | None, needed: int) -> Plan:
    """Return how a version that needs so many bytes comes in; `current` is the digest that serves."""
    free = memory.free
    if free is None or needed <= free:
        return Plan("parallel", needed, free)
    leave: list[str] = []
    gained = free
    for digest in (each for each in memory.residents if each != current):
        leave.append(digest)
        gained += memory.residents[digest]
        if needed <= gained:
            return Plan("parallel", needed, free, tuple(leave))
    if current is not None and needed <= gained + memory.residents.get(current, 0):
        return Plan("sequential", needed, free, (*leave, current))
    return Plan("refuse", needed, free)

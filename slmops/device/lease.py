"""Whose rollout may change a device now, and whose may not any more.

Pure: the clocks and the disk are `hold`'s.

Theory. A rollout that works on a device holds its lease: for so many seconds, and again with every verb. Who
stalls longer has lost it to whoever comes. Epochs order those who come: each driver of a rollout has a higher
one than those before it, and a device that has heard one hears no lower one again, so that an operator who
was frozen and thaws does no harm. Two drivers of one epoch are ordered by their rollouts' names.

An assignment's epoch is another thing, kept in `seen`: it is signed, and says what may come in. A lease's is
the word of whoever is connected, and says who may act; it must not raise what only a signed word may.

Laws: at most one rollout holds a device; what a lower epoch asks is refused after a higher one was heard; a
lease that has had its time binds nobody, nor does one from before a reboot, unless its verb is still at work;
a newer driver of the same rollout takes over at once, and so does a rollout after one that its own operator
knows to be over; the epoch never falls.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from slmops.errors import DeviceError, FencedError, LockedError

LONGEST = 3600.0
"""Seconds that a lease may be asked for at once: who wants more comes back in time."""
MOST = 2**53
"""Epochs stay below this, so that every JSON reader sees the same number."""
MANY = 100
"""Rollouts before it that a request may name."""
NAME = 200
"""Characters of a holder, a rollout or a reason."""


@dataclass(frozen=True)
class Clock:
    """What time it is."""

    boot: str
    """Which boot of the machine this is."""
    monotonic: float
    """Seconds of that boot's clock: deadlines are counted in them."""
    unix: float
    """Time of day, for people."""


@dataclass(frozen=True)
class Asked:
    """The lease that a request asks for."""

    rollout: str
    epoch: int
    holder: str
    seconds: float
    after: frozenset[str] = frozenset()
    """Rollouts of the same operator that are over, or that nobody drives: theirs give way to this one."""


@dataclass(frozen=True)
class Lease:
    """A rollout's hold on a device."""

    rollout: str
    epoch: int
    holder: str
    since: float
    """Unix time of when the rollout came."""
    until: float
    """Unix time of its end, for people."""
    boot: str
    deadline: float
    """Seconds of the monotonic clock of that boot: the end that counts."""


@dataclass(frozen=True)
class Broken:
    """A lease that a person took away."""

    rollout: str
    epoch: int
    holder: str
    by: str
    reason: str
    at: float


T = TypeVar("T", Lease, Broken)


@dataclass(frozen=True)
class Tenure:
    """What a device remembers of those who held it."""

    epoch: int = 0
    rollout: str = ""
    """The highest that was heard: an epoch, and by name the last rollout of it."""
    lease: Lease | None = None
    broken: Broken | None = None
    """The last lease that was taken away, until its holder's rollout comes back with a higher epoch."""


def asked(said: Any) -> Asked:
    """Read `lease` of a request: {rollout, epoch, holder, seconds, after}.

    Raise DeviceError when it is none.
    """
    if not isinstance(said, dict):
        raise DeviceError(f"lease: expected an object, got {str(said)[:40]!a}")
    seconds = said.get("seconds")
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds <= LONGEST:
        raise DeviceError(f"lease: expected seconds up to {LONGEST:.0f}, got {str(seconds)[:40]}")
    over = said.get("after") or []
    if not isinstance(over, list) or len(over) > MANY:
        raise DeviceError(f"lease: expected {MANY} rollouts before it at the most, got {str(over)[:40]!a}")
    return Asked(
        rollout=text(said.get("rollout"), "rollout"),
        epoch=epoch(said.get("epoch")),
        holder=text(said.get("holder"), "holder"),
        seconds=float(seconds),
        after=frozenset(text(each, "rollout") for each in over),
    )


def text(value: Any, what: str) -> str:
    """Return `value` if it is one line of text that can be shown; raise DeviceError when it is none."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME or not value.isprintable():
        raise DeviceError(f"lease: expected a {what}, one line of text, got {str(value)[:60]!a}")
    return value


def epoch(value: Any) -> int:
    """Return `value` if it is an epoch; raise DeviceError when it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
        raise DeviceError(f"lease: expected an epoch, got {str(value)[:40]!a}")
    return value


def standing(tenure: Tenure, clock: Clock, *, at_work: bool = False) -> Lease | None:
    """Return the lease that binds now; `at_work` says that a verb under it has not ended."""
    lease = tenure.lease
    if lease is None or lease.boot != clock.boot:
        return None
    return lease if at_work or clock.monotonic < lease.deadline else None


def held(tenure: Tenure, by: Asked, clock: Clock, *, at_work: bool = False) -> Tenure:
    """Return what is remembered once `by` holds the device; raise FencedError or LockedError."""
    lease = standing(tenure, clock, at_work=at_work)
    if by.epoch < tenure.epoch:
        raise _fenced(tenure, by, lease)
    gives_way = lease is not None and lease.rollout in by.after and not at_work
    if lease is not None and lease.rollout != by.rollout and not gives_way:
        raise _locked(lease)
    if (by.epoch, by.rollout) < (tenure.epoch, tenure.rollout):
        raise _fenced(tenure, by, lease)
    back = tenure.broken is not None and tenure.broken.rollout == by.rollout
    return Tenure(
        epoch=by.epoch,
        rollout=by.rollout,
        lease=Lease(
            rollout=by.rollout,
            epoch=by.epoch,
            holder=by.holder,
            since=lease.since if lease is not None and not gives_way else clock.unix,
            until=clock.unix + by.seconds,
            boot=clock.boot,
            deadline=clock.monotonic + by.seconds,
        ),
        broken=None if back else tenure.broken,
    )


def is_fresh(tenure: Tenure, by: Asked, clock: Clock) -> bool:
    """Say whether `by` holds the device already, and for more than half of what it asks for."""
    lease = standing(tenure, clock)
    mine = lease is not None and (lease.rollout, lease.epoch, lease.holder) == (
        by.rollout,
        by.epoch,
        by.holder,
    )
    return mine and lease is not None and lease.deadline - clock.monotonic > by.seconds / 2


def require_free(tenure: Tenure, clock: Clock, *, at_work: bool = False) -> None:
    """Raise LockedError when a rollout holds the device: for who asks for no lease."""
    lease = standing(tenure, clock, at_work=at_work)
    if lease is not None:
        raise _locked(lease)


def is_of(tenure: Tenure, by: Asked) -> bool:
    """Say whether the lease, were its time up or not, is still that of this driver."""
    lease = tenure.lease
    return lease is not None and (lease.rollout, lease.epoch) == (by.rollout, by.epoch)


def ended(tenure: Tenure) -> Tenure:
    """Return what is remembered once the lease was given back; the epoch stays."""
    return replace(tenure, lease=None)


def broken(tenure: Tenure, new_epoch: int, by: str, reason: str, clock: Clock) -> Tenure:
    """Return what is remembered once a person took the lease away: who had it is heard no more.

    The epoch becomes `new_epoch`, or the next one where that is no higher than what was heard. The holder
    of a lease whose time is up is told as well: it may only have stalled.
    """
    lease = tenure.lease
    lost = Broken(lease.rollout, lease.epoch, lease.holder, by, reason, clock.unix) if lease else None
    return Tenure(max(new_epoch, tenure.epoch + 1), "", None, lost or tenure.broken)


def said(tenure: Tenure) -> dict[str, Any]:
    """Return a tenure as it is written down."""
    return asdict(tenure)


def from_said(value: dict[str, Any]) -> Tenure:
    """Read a tenure; one that cannot be read remembers nothing, and what a newer agent adds is ignored."""
    try:
        lease, lost = value["lease"], value["broken"]
        return Tenure(
            epoch=epoch(value["epoch"]),
            rollout=str(value["rollout"]),
            lease=_read(Lease, lease) if lease else None,
            broken=_read(Broken, lost) if lost else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError, DeviceError):
        return Tenure()


def _read(kind: type[T], said: dict[str, Any]) -> T:
    """Return the lease in what was written down, each part as what it must be; raise when one is not."""
    kinds = {"int": int, "float": float, "str": str}
    return kind(**{field.name: kinds[str(field.type)](said[field.name]) for field in fields(kind)})


def _locked(lease: Lease) -> LockedError:
    return LockedError(
        f"{lease.holder} has this device: rollout {lease.rollout[:8]} since {_moment(lease.since)}, "
        f"until {_moment(lease.until)} if it comes back no more"
    )


def _fenced(tenure: Tenure, by: Asked, lease: Lease | None) -> FencedError:
    lost = tenure.broken
    if lost is not None and lost.rollout == by.rollout:
        return FencedError(
            f"{lost.by} took this device from rollout {by.rollout[:8]} at {_moment(lost.at)}: {lost.reason}"
        )
    who = f"; {lease.holder} has it now" if lease is not None else ""
    return FencedError(
        f"rollout {by.rollout[:8]} is of epoch {by.epoch}, and epoch {tenure.epoch} was here since{who}"
    )


def _moment(unix: float) -> str:
    try:
        return datetime.fromtimestamp(unix, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "nobody knows when"

"""What a device remembers of all it was told, and what it refuses because of that.

Pure: the clock, the dice and the disk are `trust`'s.

Laws: epochs never fall, unless root takes a rollout key away, whose holder may have leapt ahead; a release
below the floor of its name is never admitted, nor one that leaps more than STEP ahead; a floor rises and
never falls but by a trust document's word; `moment` is never before anything that was signed and seen, and an
assignment that proves to be fresh tells the time in the clock's place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from slmops.artifact import trust as trusts
from slmops.artifact.assignment import Assignment
from slmops.artifact.manifest import Release
from slmops.artifact.trust import ROLLOUT, Trust
from slmops.errors import IntegrityError

STEP = 10_000
"""Releases of one name that a device may have missed; a counter that leaps further is nobody's next one."""
NONCES = 8
"""Nonces that hold at once: operators who greeted the device and have not prepared yet."""


@dataclass(frozen=True)
class Seen:
    """What this device remembers."""

    identity: str
    """What the device calls itself."""
    nonces: tuple[str, ...] = ()
    """What it gave out to operators, the newest first."""
    newest: str = ""
    """The newest moment that was signed: by root, or by a rollout key since root's last word."""
    epoch: int = 0
    floors: dict[str, int] = field(default_factory=dict)
    """By a release's name, the lowest counter that is let in."""
    highest: dict[str, int] = field(default_factory=dict)
    """By a release's name, the highest counter that was let in."""


def challenged(seen: Seen, nonce: str) -> Seen:
    """Return what is remembered once a nonce was given out."""
    return replace(seen, nonces=(nonce, *seen.nonces)[:NONCES])


def believing(seen: Seen, before: Trust | None, trust: Trust) -> Seen:
    """Return what is remembered once a trust document is in force, in the place of the one `before`.

    Its time and its floors count anew, and so do epochs where a rollout key has gone.
    """
    set_to = dict(trust.floors)
    gone = before is not None and not set(before.of(ROLLOUT)) <= set(trust.of(ROLLOUT))
    return replace(
        seen,
        newest=trust.created,
        epoch=0 if gone else seen.epoch,
        floors={**seen.floors, **set_to},
        highest={**seen.highest, **set_to},
    )


def admitting(seen: Seen, release: Release, told: Assignment | None) -> Seen:
    """Return what is remembered once a release was let in."""
    highest = max(release.counter, seen.highest.get(release.name, 0))
    after = replace(seen, highest={**seen.highest, release.name: highest})
    if told is None:
        return after
    return replace(after, epoch=max(seen.epoch, told.epoch), newest=max(seen.newest, told.issued))


def raised(seen: Seen, kept: Iterable[Release]) -> Seen:
    """Return what is remembered once a release was committed: the floors are the oldest of those `kept`."""
    lowest: dict[str, int] = {}
    for release in kept:
        lowest[release.name] = min(release.counter, lowest.get(release.name, release.counter))
    rising = {name: max(counter, seen.floors.get(name, 0)) for name, counter in lowest.items()}
    return replace(seen, floors={**seen.floors, **rising})


def moment(seen: Seen, told: Assignment | None, clock: str) -> str:
    """Return what time it is, as far as can be known; `clock` is what the device's own says."""
    if told is not None and told.nonce is not None:
        return max(told.issued, seen.newest)
    return max(clock, seen.newest, told.issued if told else "")


def require_meant(seen: Seen, told: Assignment, device: str, release: str, slot: str) -> None:
    """Raise IntegrityError unless an assignment is for this device, this artifact, and no rollout past."""
    for what, got, accepted in (
        ("device", told.device, {device}),
        ("device", told.identity, {None, seen.identity}),
        ("release", told.release, {release}),
        ("artifact", told.slot, {slot}),
        ("session", told.nonce, {None, *seen.nonces}),
    ):
        if got not in accepted:
            expected = " or ".join(sorted(each for each in accepted if each)) or "none"
            raise IntegrityError(f"the assignment is for another {what}: expected {expected}, got {got}")
    if told.epoch < seen.epoch:
        raise IntegrityError(
            f"the assignment is of epoch {told.epoch}, and one of epoch {seen.epoch} was here",
            remedy="Another rollout has begun since; run `slmops deploy` again if yours is to win.",
        )


def require_valid(trust: Trust, release: Release, told: Assignment | None, now: str) -> None:
    """Raise IntegrityError when the trust document, the release or the assignment has had its time."""
    trust.require_unexpired(now)
    for what, until in (("release", release.expires), ("assignment", told.valid_until if told else None)):
        if until is not None and until < now:
            raise IntegrityError(
                f"the {what} was valid until {until} (it is {now})",
                remedy="Publish a newer release, or deploy again; where a clock was wrong, the next trust "
                "document sets it right: slmops trust rotate --expires 1y.",
            )


def require_next(seen: Seen, release: Release) -> None:
    """Raise IntegrityError for a release older than the floor, and for one that leaps too far ahead."""
    floor, highest = seen.floors.get(release.name, 0), seen.highest.get(release.name, 0)
    trusts.require_floor(release, floor)
    if release.counter > max(highest, floor) + STEP:
        raise IntegrityError(
            f"{release.reference} has counter {release.counter}, more than {STEP} after {highest}: "
            "no release comes next like that",
            remedy="If it is right, let root say so: "
            f"slmops trust rotate --floor {release.name}={release.counter}.",
        )

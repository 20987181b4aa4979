"""Hold a device for one rollout while its verbs are at work; answer who has it, and take it away.

    ROOT/lease.json        the highest epoch that was heard, who has the device, who lost it last
    ROOT/run/lease.lock    held for as long as that file is read and written
    ROOT/run/lease.work    held, together, by the verbs that are at work under a lease

A verb may take longer than its lease lasts; as long as its process lives, so does the lease. What the rules
are is `lease`'s to say.

Laws: no handler of a changing verb runs before the rules let it; a refusal writes nothing; a lease that was
taken away while a verb was at work is not renewed at its end.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from slmops.device import boots, heed
from slmops.device import lease as leases
from slmops.device.lease import Asked, Clock, Tenure
from slmops.device.places import Places, read_json, write_json
from slmops.errors import DeviceError

ROLLING_OUT = (
    "enroll",
    "prepare",
    "compare",
    "receive",
    "patch",
    "stage",
    "activate",
    "confirm",
    "roll-back",
)
"""Verbs of a rollout: they may ask for a lease. What else changes a device waits for its end."""
LAST = ("confirm", "roll-back")
"""Verbs after which a rollout has nothing more to do on a device."""
PATIENCE = 10.0
"""Seconds until somebody else's look at the lease counts as stuck."""


@contextmanager
def held(places: Places, verb: str, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold the device as the request asks while its verb is at work; raise LockedError or FencedError.

    What is yielded takes the handler's answer: a verb that was a rollout's last gives the lease back.
    """
    answer: dict[str, Any] = {}
    if verb not in ROLLING_OUT or said.get("lease") is None:
        if not _looks_alone(verb, said):
            require_free(places)
        yield answer
        return
    by = leases.asked(said["lease"])
    with _work(places) as work:
        _take(places, by, work, verb)
        yield answer
        _leave(places, by, last=verb in LAST or answer.get("outcome") in ("fail", "inconclusive"))


def require_free(places: Places) -> None:
    """Raise LockedError when a rollout has this device: for who comes without a lease."""
    if places.lease.exists():
        with _alone(places):
            leases.require_free(_read(places), _clock(), at_work=_is_at_work(places))


def lease(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Answer who has the device, give it back, or take it away: `action` is "status", "return" or "break".

    To return says `lease`, as rollouts ask for it; to break says `reason`, `holder` (who breaks it) and
    `epoch`. Returns what `told` does; here a lease past its time is told as well, while a verb under it is at
    work.
    """
    action = said["action"]
    if action not in ("status", "return", "break"):
        raise DeviceError(f"lease: expected the action status, return or break, got {str(action)[:40]!a}")
    if action == "return":
        _leave(places, leases.asked(said["lease"]), last=True)
        places.bulletin.unlink(missing_ok=True)
    if action == "break":
        epoch, by = leases.epoch(said["epoch"]), leases.text(said["holder"], "holder")
        reason = leases.text(said["reason"], "reason")
        with _alone(places):
            _write(places, leases.broken(_read(places), epoch, by, reason, _clock()))
        places.bulletin.unlink(missing_ok=True)
    if not places.lease.exists():
        return told(places)
    with _alone(places):
        return told(places, at_work=_is_at_work(places))


def told(places: Places, *, at_work: bool = False) -> dict[str, Any]:
    """Return {epoch, rollout, lease, broken, update_lock}, waiting for nobody.

    `epoch` is the highest that was heard, `lease` null where nobody's binds now, `broken` the one that was
    taken away last, `update_lock` an application's.
    """
    tenure = _read(places)
    binding = leases.standing(tenure, _clock(), at_work=at_work)
    lease = leases.said(tenure)["lease"] if binding is not None else None
    return {**leases.said(tenure), "lease": lease, "update_lock": heed.update_lock(places)}


def _looks_alone(verb: str, said: dict[str, Any]) -> bool:
    return bool((verb == "gc" and said.get("dry_run")) or (verb == "fsck" and not said.get("repair")))


def _take(places: Places, by: Asked, work: IO[bytes], verb: str) -> None:
    """Hold the device by the rules, and be at work from then on."""
    with _alone(places):
        tenure, clock = _read(places), _clock()
        after = leases.held(tenure, by, clock, at_work=_is_at_work(places))
        _lock(work, fcntl.LOCK_SH)
        if not leases.is_fresh(tenure, by, clock):
            try:
                _write(places, after)
            except OSError as error:
                # On a full disk the way back, and the commit, must not wait for a file of a lease.
                if verb not in LAST or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise


def _leave(places: Places, by: Asked, *, last: bool) -> None:
    """Give the lease back, or let its time count from now; not where another has it since."""
    # The verb is done, whatever becomes of this: a lease that is not given back ends by itself.
    with suppress(DeviceError, OSError), _alone(places):
        tenure, clock = _read(places), _clock()
        if leases.is_of(tenure, by) and last:
            _write(places, leases.ended(tenure))
        elif leases.is_of(tenure, by) and not leases.is_fresh(tenure, by, clock):
            _write(places, leases.held(tenure, by, clock, at_work=True))


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """Be the only one who reads and writes the lease."""
    with places.lease_lock.open("w") as lock:
        _lock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _work(places: Places) -> Iterator[IO[bytes]]:
    """Open what a verb holds while at work; the kernel lets go of it when the process ends."""
    with places.lease_work.open("wb") as work:
        yield work


def _is_at_work(places: Places) -> bool:
    """Say whether a verb under a lease is at work in any process."""
    try:
        with places.lease_work.open("rb") as work:
            fcntl.flock(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock(file: IO[Any], kind: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise DeviceError(
                    "who has this device cannot be told now", remedy="Try again in a minute."
                ) from error
            time.sleep(0.01)


def _clock() -> Clock:
    return Clock(boots.identity(), time.monotonic(), time.time())


def _read(places: Places) -> Tenure:
    return leases.from_said(read_json(places.lease) or {})


def _write(places: Places, tenure: Tenure) -> None:
    write_json(places.lease, leases.said(tenure))

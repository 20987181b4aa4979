"""Take devices back to what they served before, and write that in history as a rollout that went back.

Laws: nobody else drives a rollout over the fleet meanwhile, and each device is held by a lease; every device
that was meant has a line, those too that were away; what release was left stands in the rollout's options,
from where `left` reads it, so that nobody is brought to it by what was before; who has gone back goes no
further.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import Any

from slmops.cli import auditing, home
from slmops.cli.status import RELEASE
from slmops.errors import FencedError, LockedError, ReleaseError, SlmopsError, UnreachableError
from slmops.fleet import ask_all as asking
from slmops.fleet.inventory import Device, Fleet
from slmops.fleet.ssh import Link
from slmops.registry import catalog
from slmops.registry import release as releases
from slmops.registry.layout import Layout
from slmops.rollout import apply
from slmops.rollout.assignment import State
from slmops.rollout.history import LEASE, Entry, History
from slmops.rollout.machine import State as Rollout

Row = dict[str, Any]
OUTCOMES = {
    "ok": State.RETURNED,
    "failed": State.FAILED,
    "stuck": State.STUCK,
    "locked": State.FAILED,
    "unreachable": State.LOST,
    "stays": State.SKIPPED,
    "no release": State.SKIPPED,
}
"""Where each outcome leaves a device, in the words of a rollout."""


def left(entry: Entry) -> frozenset[str] | None:
    """Return which releases a rollout went back from on purpose; None of one that was no way back."""
    said = entry.options.get("left")
    return None if said is None else frozenset(said)


def can(row: Row) -> bool:
    """Say whether a device, by what it said to `status`, has something to go back to."""
    return row.get("way_back") is not None


def changes_release(row: Row) -> bool:
    """Say whether the way back leads to another release, and not to how this one was run before."""
    return row.get("way_back") == RELEASE


def goes_back_to(row: Row) -> str | None:
    """Return what a device would serve, for people; None where there is no way back."""
    if not can(row):
        return None
    return row.get("previous") if changes_release(row) else f"{row.get('release')}, run as before"


def take_back(fleet: Fleet, stood: Mapping[Device, Row]) -> list[Row]:
    """Take every device back that can be, `max_parallel` at a time; return how each ended, in order.

    `stood` is what devices said to `status`. Raise LockedError when somebody drives a rollout over the fleet.
    """
    going = [device for device, row in stood.items() if can(row)]
    staying = [_stays(row) for row in stood.values() if not can(row)]
    if not going:
        return staying
    with _begun(fleet, stood, going) as way:
        for end in staying:
            way.tell(end)
        asking.ask_all(going, way.go_back, fleet.rollout.max_parallel, way.tell)
    return [way.ends[device.name] for device in stood]


@dataclass
class _Way:
    """The way back of some devices while it is under way."""

    fleet: Fleet
    history: History
    number: int
    lease: dict[str, Any]
    rows: dict[str, Row]
    taken: Flag = field(default_factory=Flag)
    """Set when somebody took the fleet away: nobody new begins."""
    ends: dict[str, Row] = field(default_factory=dict)

    def go_back(self, device: Device) -> Row:
        """Take one device back; return how that ended."""
        row = self.rows[device.name]
        try:
            if self.taken.is_set():
                raise FencedError(f"{self.fleet.name} was taken from this rollback")
            with Link(device, home.known_hosts()) as link:
                slot = row["digest"].partition(":")[2]
                answer = apply.go_back(link, slot, self.fleet.rollout, lease=self.lease)
        except UnreachableError as error:
            return _end(row, "unreachable", str(error), error)
        except LockedError as error:
            return _end(row, "locked", str(error), error)
        except SlmopsError as error:
            return _end(row, "failed", str(error), error)
        if answer["outcome"] != "pass":
            return _end(row, "stuck", answer["message"])
        if changes_release(row):
            return {**_end(row, "ok", answer["message"]), "serves": row.get("previous")}
        return _end(row, "ok", f"run as before: {answer['message']}")

    def tell(self, end: Row) -> None:
        """Write down how a device ended."""
        self.ends[end["device"]] = end
        row = self.rows[end["device"]]
        said = {
            "from": row.get("release"),
            "to": row.get("previous" if changes_release(row) else "release"),
            "code": end["code"],
        }
        state = OUTCOMES[end["outcome"]].value
        self.history.told(self.number, end["device"], state, end["message"], said)

    def state(self) -> Rollout:
        """Return what the way back has come to so far."""
        outcomes = {end["outcome"] for end in self.ends.values()}
        if "stuck" in outcomes:
            return Rollout.STUCK
        if len(self.ends) < len(self.rows):
            return Rollout.PARTIAL
        if "ok" not in outcomes:
            return Rollout.REFUSED
        return Rollout.RETURNED if outcomes <= {"ok", "stays"} else Rollout.PARTIAL


@contextmanager
def _begun(fleet: Fleet, stood: Mapping[Device, Row], going: list[Device]) -> Iterator[_Way]:
    """Open the way back in history, hold the fleet for it, and say in the end what it came to."""
    who, uid, epoch = auditing.who(), uuid.uuid4().hex, home.epoch()
    serve = sorted({str(stood[device]["release"]) for device in going})
    leaves = sorted({str(stood[device]["release"]) for device in going if changes_release(stood[device])})
    waves = [[device.name for device in stood if device not in going], [device.name for device in going]]
    with closing(History(home.history())) as history:
        number = history.begin(
            fleet.name, f"back from {', '.join(serve)}", _digest(serve[0], stood[going[0]]), waves,
            uid=uid, epoch=epoch, operator=who, options={"left": leaves},
        )  # fmt: skip
        auditing.note(rollout=number)
        lease = {"rollout": uid, "epoch": epoch, "holder": who, "seconds": 2 * LEASE}
        lease["after"] = history.over(fleet.name, uid)
        way = _Way(fleet, history, number, lease, {row["device"]: row for row in stood.values()})
        try:
            history.hold(fleet.name, number, epoch, who)
        except LockedError:
            history.moved(number, Rollout.REFUSED.value, 0)
            raise
        for entry in history.left(fleet.name):
            if way.rows.keys() & {line.device for line in history.devices(entry.id)} and entry.id != number:
                history.moved(entry.id, Rollout.SUPERSEDED.value, entry.wave)
        history.moved(number, Rollout.RETURNING.value, 0)
        try:
            with _renewed(fleet.name, epoch, way.taken):
                yield way
        finally:
            history.moved(number, way.state().value, 0)
            history.let_go(fleet.name, epoch)


@contextmanager
def _renewed(fleet: str, epoch: int, taken: Flag) -> Iterator[None]:
    """Hold the fleet on for as long as this lasts; `taken` is set when it was taken away."""
    done = Flag()

    def renew() -> None:
        with closing(History(home.history())) as history:
            while not done.wait(LEASE / 3):
                try:
                    history.renew(fleet, epoch)
                except FencedError:
                    taken.set()
                    return

    thread = Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _digest(release: str, row: Row) -> str:
    """Return the digest of a release, or of the artifact where it is not in the registry any more."""
    try:
        return releases.find(Layout(home.registry()), catalog.parse(release)).blob.digest
    except ReleaseError:
        return str(row["digest"])


def _stays(row: Row) -> Row:
    if row["health"] == "unreachable":
        return _end(row, "unreachable", row.get("remark", ""))
    if not row.get("digest"):
        return _end(row, "no release", row.get("remark", ""))
    if row.get("previous"):
        return _end(row, "stays", f"it has gone back already; --to goes to another, as {row['previous']}")
    return _end(row, "stays", "nothing to go back to")


def _end(row: Row, outcome: str, message: str, error: SlmopsError | None = None) -> Row:
    return {
        "device": row["device"],
        "outcome": outcome,
        "serves": row.get("release"),
        "message": message,
        "code": error.code if error is not None else None,
        "next": error.remedy if error is not None else "",
    }

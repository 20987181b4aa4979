"""What happened in every rollout, in order, on the operator's disk (SQLite).

It is a cache of what devices know better, kept for people, for `slmops rollout`, and for the driver that
takes up what another has left. One writer a rollout: the thread of the driver that holds its fleet; anybody
may leave a wish.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from slmops.errors import FencedError, LockedError, SlmopsError
from slmops.rollout.machine import DRIVEN, STOPS
from slmops.rollout.schema import SCHEMA, SECOND, VERSION

REMEMBERED = 50
"""Rollouts that are told to devices as being over."""
LEASE = 30.0
"""Seconds that a driver holds its fleet without renewing."""


@dataclass(frozen=True)
class Entry:
    """A rollout as history has it."""

    id: int
    fleet: str
    release: str
    digest: str
    state: str
    wave: int
    waves: int
    started: float
    changed: float
    uid: str = ""
    """What devices know it by."""
    epoch: int = 0
    operator: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    """How it was asked for: fleet file, selector, strategy; what a driver needs to go on with it."""


@dataclass(frozen=True)
class Line:
    """A device's part in a rollout as history has it; in wave 0 is who was left out or had it already."""

    device: str
    wave: int
    state: str
    message: str
    evidence: dict[str, Any]
    changed: float
    entered: dict[str, float] = field(default_factory=dict)
    """Unix time of the last entry into each state."""
    doing: dict[str, Any] = field(default_factory=dict)
    """Progress within its state, as it was last told."""


@dataclass(frozen=True)
class Happening:
    """Something that happened, to a device or (None) to the rollout."""

    id: int
    at: float
    device: str | None
    what: str


@dataclass(frozen=True)
class Driver:
    """The process that drives a rollout."""

    fleet: str
    rollout: int
    epoch: int
    holder: str
    host: str
    pid: int
    since: float
    until: float

    def alive(self, now: float) -> bool:
        """Say whether it holds its fleet still: it renewed in time, and if it ran here it runs still."""
        return now < self.until and (self.host != os.uname().nodename or _runs(self.pid))


class History:
    """The operator's record of rollouts, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._base = sqlite3.connect(path, isolation_level=None, timeout=30.0)
            self._base.executescript(
                "pragma journal_mode=wal; pragma synchronous=normal; pragma foreign_keys=on;" + SCHEMA
            )
            self._bring_up()
        except sqlite3.DatabaseError as error:
            raise SlmopsError(
                f"{path} cannot be used as the history of rollouts: {error}",
                remedy="Move it away: devices know what they run, and a new history begins.",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def begin(
        self,
        fleet: str,
        release: str,
        digest: str,
        waves: Iterable[Iterable[str]],
        *,
        uid: str = "",
        epoch: int = 0,
        operator: str = "",
        options: dict[str, Any] | None = None,
    ) -> int:
        """Open a rollout over these waves of device names, those left out first; return its number."""
        now = time.time()
        cut = [list(wave) for wave in waves]
        said = (
            fleet,
            release,
            digest,
            len(cut) - 1,
            now,
            now,
            uid,
            epoch,
            operator,
            json.dumps(options or {}),
        )
        with self._at_once(), closing(self._base.cursor()) as cursor:
            cursor.execute(
                "insert into rollout (fleet, release, digest, state, wave, waves, started, changed, uid,"
                " epoch, operator, options) values (?, ?, ?, 'planned', 0, ?, ?, ?, ?, ?, ?, ?)",
                said,
            )
            number = int(cursor.lastrowid or 0)
            cursor.executemany(
                "insert into assignment (rollout, device, wave, state, changed)"
                " values (?, ?, ?, 'waiting', ?)",
                [(number, name, index, now) for index, wave in enumerate(cut) for name in wave],
            )
        return number

    def moved(self, number: int, state: str, wave: int, *, epoch: int | None = None) -> None:
        """Write that the rollout is in another state.

        With the `epoch` of its driver raise FencedError, and write nothing, where that drives it no more.
        """
        now = time.time()
        with self._at_once():
            self._require(number, epoch)
            self._base.execute(
                "update rollout set state=?, wave=?, changed=? where id=?", (state, wave, now, number)
            )
            self._base.execute("insert into event values (?, ?, null, ?)", (number, now, state))

    def told(
        self,
        number: int,
        device: str,
        state: str,
        message: str = "",
        evidence: dict[str, Any] | None = None,
        *,
        epoch: int | None = None,
    ) -> None:
        """Write where a device stands and why; `epoch` as for `moved`."""
        now = time.time()
        with self._at_once():
            self._require(number, epoch)
            self._base.execute(
                "update assignment set state=?, message=?, evidence=?, changed=?, doing='{}',"
                " entered=json_set(entered, '$.' || json_quote(?), ?) where rollout=? and device=?",
                (state, message, json.dumps(evidence or {}), now, state, now, number, device),
            )
            what = f"{state} {message}".strip()
            self._base.execute("insert into event values (?, ?, ?, ?)", (number, now, device, what))

    def set_options(self, number: int, options: dict[str, Any]) -> None:
        """Write anew how a rollout was asked for."""
        self._base.execute("update rollout set options=? where id=?", (json.dumps(options), number))

    def does(self, number: int, device: str, doing: dict[str, Any]) -> None:
        """Write how far a device is within its state."""
        self._base.execute(
            "update assignment set doing=? where rollout=? and device=?",
            (json.dumps(doing), number, device),
        )

    def rollouts(self, limit: int = 20) -> list[Entry]:
        """Return the latest rollouts, newest first."""
        rows = self._base.execute(_ENTRIES + " order by id desc limit ?", (limit,))
        return [_entry(row) for row in rows]

    def over(self, fleet: str, uid: str) -> list[str]:
        """Return what devices know the latest rollouts over a fleet by, but for the one called `uid`.

        Whoever holds the fleet knows that nobody drives them.
        """
        rows = self._base.execute(
            "select uid from rollout where fleet=? and uid not in ('', ?) order by id desc limit ?",
            (fleet, uid, REMEMBERED),
        )
        return [str(row[0]) for row in rows]

    def find(self, number: int | None) -> Entry | None:
        """Return one rollout, or the latest."""
        latest = _ENTRIES + " where ?1 is null or id=?1 order by id desc limit 1"
        row = self._base.execute(latest, (number,)).fetchone()
        return None if row is None else _entry(row)

    def devices(self, number: int) -> list[Line]:
        """Return the devices of a rollout, by wave."""
        rows = self._base.execute(
            "select device, wave, state, message, evidence, changed, entered, doing from assignment"
            " where rollout=? order by wave, rowid",
            (number,),
        )
        return [
            Line(name, wave, state, message, json.loads(evidence), at, json.loads(entered), json.loads(doing))
            for name, wave, state, message, evidence, at, entered, doing in rows
        ]

    def events(self, number: int, after: int = 0) -> list[Happening]:
        """Return what happened in a rollout, in order; `after` is the id of the last one known."""
        rows = self._base.execute(
            "select rowid, at, device, what from event where rollout=? and rowid>? order by rowid",
            (number, after),
        )
        return [Happening(*row) for row in rows]

    def left(self, fleet: str) -> list[Entry]:
        """Return the rollouts over a fleet that have not ended, newest first."""
        rows = self._base.execute(_ENTRIES + " where fleet=? order by id desc", (fleet,))
        return [entry for entry in map(_entry, rows) if entry.state in _GOING_ON]

    def wish(self, number: int, what: str, who: str) -> None:
        """Leave word for the driver of a rollout: pause, abort, abort wave or abort all."""
        now = time.time()
        with self._at_once():
            self._base.execute("insert into wish values (?, ?, ?, ?)", (number, now, who, what))
            self._base.execute(
                "insert into event values (?, ?, null, ?)", (number, now, f"{who} asks: {what}")
            )

    def wishes(self, number: int) -> list[str]:
        """Take the words that were left for the driver of a rollout."""
        if self._base.execute("select 1 from wish where rollout=?", (number,)).fetchone() is None:
            return []
        with self._at_once():
            rows = self._base.execute(
                "select what from wish where rollout=? order by rowid", (number,)
            ).fetchall()
            self._base.execute("delete from wish where rollout=?", (number,))
        return [str(row[0]) for row in rows]

    def hold(self, fleet: str, number: int, epoch: int, holder: str) -> None:
        """Take a fleet for this process; raise LockedError while another drives a rollout over it."""
        now = time.time()
        with self._at_once():
            at_work = self._driver("fleet=?", fleet)
            if at_work is not None and at_work.alive(now) and at_work.pid != os.getpid():
                raise LockedError(
                    f"rollout {at_work.rollout} over {fleet} is driven by {at_work.holder}, "
                    f"process {at_work.pid}",
                    remedy=f"Wait for it (slmops rollout watch {at_work.rollout}), or stop it: "
                    f"slmops rollout pause {at_work.rollout}.",
                )
            self._base.execute("delete from wish where rollout=?", (number,))
            self._base.execute("update rollout set epoch=? where id=?", (epoch, number))
            self._base.execute(
                "insert or replace into driver values (?, ?, ?, ?, ?, ?, ?, ?)",
                (fleet, number, epoch, holder, os.uname().nodename, os.getpid(), now, now + LEASE),
            )

    def renew(self, fleet: str, epoch: int) -> None:
        """Hold the fleet on; raise FencedError where it was taken away."""
        done = self._base.execute(
            "update driver set until=? where fleet=? and epoch=?", (time.time() + LEASE, fleet, epoch)
        )
        if done.rowcount == 0:
            raise FencedError(f"{fleet} was taken from this rollout")

    def let_go(self, fleet: str, epoch: int) -> None:
        """Hold the fleet no more."""
        self._base.execute("delete from driver where fleet=? and epoch=?", (fleet, epoch))

    def take_away(self, fleet: str) -> Driver | None:
        """Take a fleet from whoever drives a rollout over it, and return who that was."""
        with self._at_once():
            found = self._driver("fleet=?", fleet)
            self._base.execute("delete from driver where fleet=?", (fleet,))
        return found

    def driver(self, number: int) -> Driver | None:
        """Return the process that drives a rollout, if one does."""
        found = self._driver("rollout=?", number)
        return found if found is not None and found.alive(time.time()) else None

    def driver_of(self, fleet: str) -> Driver | None:
        """Return the process that drives a rollout over a fleet, if one does."""
        found = self._driver("fleet=?", fleet)
        return found if found is not None and found.alive(time.time()) else None

    def device_keys(self, fleet: str) -> dict[str, str]:
        """Return the keys that the devices of a fleet attest with, of those that were seen."""
        return dict(
            self._base.execute("select device, key from device_key where fleet=?", (fleet,)).fetchall()
        )

    def keep_device_key(self, fleet: str, device: str, key: str | None) -> None:
        """Write down, or forget, the key that a device attests with."""
        if key is None:
            self._base.execute("delete from device_key where fleet=? and device=?", (fleet, device))
        else:
            self._base.execute("insert or replace into device_key values (?, ?, ?)", (fleet, device, key))

    def _require(self, number: int, epoch: int | None) -> None:
        at_work = None if epoch is None else self._driver("rollout=?", number)
        if epoch is not None and (at_work is None or at_work.epoch != epoch):
            raise FencedError(f"rollout {number} was taken from this driver")

    def _driver(self, where: str, value: str | int) -> Driver | None:
        row = self._base.execute(
            f"select fleet, rollout, epoch, holder, host, pid, since, until from driver where {where}",  # noqa: S608
            (value,),
        ).fetchone()
        return None if row is None else Driver(*row)

    def _bring_up(self) -> None:
        with self._at_once():
            if self._base.execute("pragma user_version").fetchone()[0] < VERSION:
                for statement in SECOND.split(";"):
                    self._base.execute(statement)
                self._base.execute(f"pragma user_version={VERSION}")

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Do all of it or nothing."""
        self._base.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._base.execute("rollback")
            raise
        self._base.execute("commit")


_COLUMNS = [each.name for each in fields(Entry)]
_ENTRIES = f"select {', '.join(_COLUMNS)} from rollout"  # noqa: S608 - names of our own
_GOING_ON = {state.value for state in STOPS | DRIVEN}


def _entry(row: tuple[Any, ...]) -> Entry:
    known = dict(zip(_COLUMNS, row, strict=True))
    return Entry(**{**known, "options": json.loads(known["options"])})


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

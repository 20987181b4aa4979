"""What happened in every rollout, in order, on the operator's disk (SQLite).

It is a cache of what devices know better, kept for people and for `slmops rollout`. One writer: the
thread that drives the rollout.
"""

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.errors import SlmopsError

SCHEMA = """
create table if not exists rollout (
    id integer primary key, fleet text not null, release text not null, digest text not null,
    state text not null, wave integer not null, waves integer not null,
    started real not null, changed real not null
);
create table if not exists assignment (
    rollout integer not null references rollout, device text not null, wave integer not null,
    state text not null, slot text, message text not null default '', evidence text not null default '{}',
    changed real not null, primary key (rollout, device)
);
create table if not exists event (
    rollout integer not null references rollout, at real not null, device text, what text not null
);
"""


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


@dataclass(frozen=True)
class Line:
    """A device's part in a rollout as history has it."""

    device: str
    wave: int
    state: str
    message: str
    evidence: dict[str, Any]
    changed: float


class History:
    """The operator's record of rollouts, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.executescript("pragma journal_mode=wal; pragma foreign_keys=on;" + SCHEMA)
        except sqlite3.DatabaseError as error:
            raise SlmopsError(
                f"{path} cannot be used as the history of rollouts: {error}",
                remedy="Move it away: devices know what they run, and a new history begins.",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def begin(self, fleet: str, release: str, digest: str, waves: Iterable[Iterable[str]]) -> int:
        """Open a rollout over these waves of device names, those left out first; return its number."""
        now = time.time()
        cut = [list(wave) for wave in waves]
        with closing(self._base.cursor()) as cursor:
            cursor.execute(
                "insert into rollout (fleet, release, digest, state, wave, waves, started, changed)"
                " values (?, ?, ?, 'planned', 0, ?, ?, ?)",
                (fleet, release, digest, len(cut) - 1, now, now),
            )
            number = int(cursor.lastrowid or 0)
            cursor.executemany(
                "insert into assignment (rollout, device, wave, state, changed)"
                " values (?, ?, ?, 'waiting', ?)",
                [(number, name, index, now) for index, wave in enumerate(cut) for name in wave],
            )
        return number

    def moved(self, number: int, state: str, wave: int) -> None:
        """Write that the rollout is in another state."""
        now = time.time()
        self._base.execute(
            "update rollout set state=?, wave=?, changed=? where id=?", (state, wave, now, number)
        )
        self._base.execute("insert into event values (?, ?, null, ?)", (number, now, state))

    def told(
        self, number: int, device: str, state: str, message: str = "", evidence: dict[str, Any] | None = None
    ) -> None:
        """Write where a device stands and why."""
        now = time.time()
        self._base.execute(
            "update assignment set state=?, message=?, evidence=?, changed=? where rollout=? and device=?",
            (state, message, json.dumps(evidence or {}), now, number, device),
        )
        what = f"{state} {message}".strip()
        self._base.execute("insert into event values (?, ?, ?, ?)", (number, now, device, what))

    def rollouts(self, limit: int = 20) -> list[Entry]:
        """Return the latest rollouts, newest first."""
        rows = self._base.execute("select * from rollout order by id desc limit ?", (limit,))
        return [Entry(*row) for row in rows]

    def find(self, number: int | None) -> Entry | None:
        """Return one rollout, or the latest."""
        latest = "select * from rollout where ?1 is null or id=?1 order by id desc limit 1"
        row = self._base.execute(latest, (number,)).fetchone()
        return None if row is None else Entry(*row)

    def devices(self, number: int) -> list[Line]:
        """Return the devices of a rollout, by wave."""
        rows = self._base.execute(
            "select device, wave, state, message, evidence, changed from assignment"
            " where rollout=? order by wave, rowid",
            (number,),
        )
        return [Line(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5]) for row in rows]

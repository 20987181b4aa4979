"""A bounded ring of events on disk, for a device that is offline more often than not.

Events lie in a SQLite file with numbers that rise. Some thousand of them, by their numbers, are a block; of a
block that is full its sums are kept beside it, so that who wants to know what all of them come to reads a
few. When the file would pass its limit the oldest block goes, and what it held is counted as dropped. It does
not know who comes to read.

Laws: a spool has a name of its own, and in it a number is given once, even when a power cut took what had it
before; so whoever keeps the last number that it read gets every event once. Writing never raises: what cannot
be written is counted as lost, what is no database any more is set aside, and a new one begins. Files never
hold more bytes than the limit, but for one that was set aside. The newest event is never dropped.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.errors import DocumentError
from slmops.telemetry import database
from slmops.telemetry.events import RequestFinished, parse
from slmops.telemetry.summary import summarise

if TYPE_CHECKING:
    import sqlite3

FILE = "spool.sqlite"
LIMIT_BYTES = 32 << 20
"""Seven days of a request a second."""
LEAST_BYTES = 256 << 10
"""A smaller limit is as good as this one: a few blocks."""
BLOCK = 1024
LOG_PAGES = 1000
LEGACY, CARRYING = "[0-9]*.jsonl", ".carrying"
"""Spools were lines of JSON in numbered files once; one that is being carried over has another name."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS served (
    number INTEGER PRIMARY KEY, release TEXT NOT NULL, digest TEXT NOT NULL, label TEXT NOT NULL,
    kind TEXT NOT NULL, UNIQUE (release, digest, label, kind));
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, time REAL, served INTEGER, status INTEGER, prompt_tokens INTEGER,
    output_tokens INTEGER, first_token_seconds REAL, seconds REAL);
CREATE TABLE IF NOT EXISTS sums (
    block INTEGER, digest TEXT, summary TEXT, PRIMARY KEY (digest, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS carried (token TEXT PRIMARY KEY);
"""
EVENTS = """
SELECT id, time, release, digest, status, prompt_tokens, output_tokens, first_token_seconds, seconds,
    label, kind
FROM events CROSS JOIN served ON served.number = events.served"""


@dataclass(frozen=True)
class Spooled:
    """What a spool holds, or a part of it, in the order in which it was written."""

    name: str
    """Of the spool; empty where there is none."""
    events: list[tuple[int, RequestFinished]]
    """With their numbers."""
    dropped: int
    """Events that went to stay within the limit, of all time."""
    last: int
    """The highest number there is."""


class Spool:
    """The writing end, for one thread at a time; reading needs no more than the folder (see `read`)."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Take `folder`, made when something is written, to hold at most `limit_bytes`."""
        self.bytes = 0
        """On disk, after what was written last."""
        self.dropped = 0
        """Events that went to stay within the limit, of all time."""
        self.lost = 0
        """Events that could not be written, since the start."""
        self._folder = folder
        room = (max(LEAST_BYTES, limit_bytes) - database.SHARED) // database.PAGE
        log_pages = min(LOG_PAGES, room // 8)
        self._most = room - 3 * log_pages
        self._writer = database.Writer(folder / FILE, SCHEMA, "events", log_pages, self._carry_over)

    @property
    def why(self) -> str:
        """Return what the events that were lost last were lost for."""
        return self._writer.why

    def append(self, event: RequestFinished) -> bool:
        """Write one event; say whether it is written."""
        return self.extend([event])

    def extend(self, events: list[RequestFinished]) -> bool:
        """Write events, all or none of them; say whether they are written."""

        def write(connection: sqlite3.Connection) -> None:
            for event in events:
                self._insert(connection, event)
            self._make_room(connection)
            self.dropped = _spool(connection)[1]

        if not self._writer.write(write):
            self.lost += len(events)
            return False
        self.bytes = database.held(self._writer.path)
        return True

    def close(self) -> None:
        """Let the file go; what is written next opens it again."""
        self._writer.close()

    def _insert(self, connection: sqlite3.Connection, event: RequestFinished) -> None:
        _, last = span(connection)
        number = self._writer.number(connection)
        served = (event.release, event.digest, event.label, event.kind)
        connection.execute(
            "INSERT OR IGNORE INTO served (release, digest, label, kind) VALUES (?, ?, ?, ?)", served
        )
        connection.execute(
            "INSERT INTO events SELECT ?, ?, number, ?, ?, ?, ?, ? FROM served "
            "WHERE (release, digest, label, kind) = (?, ?, ?, ?)",
            (
                *(number, event.time, event.status, event.prompt_tokens, event.output_tokens),
                *(event.first_token_seconds, event.seconds, *served),
            ),
        )
        if last is not None and number // BLOCK != last // BLOCK:
            _sum_up(connection, last // BLOCK)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        while database.pages(connection) > self._most:
            first, last = span(connection)
            if first is None or first // BLOCK == last // BLOCK:
                return
            end = (first // BLOCK + 1) * BLOCK
            gone = connection.execute("DELETE FROM events WHERE id < ?", (end,)).rowcount
            connection.execute("DELETE FROM sums WHERE block < ?", (end // BLOCK,))
            connection.execute("UPDATE spool SET dropped = dropped + ?", (gone,))

    def _carry_over(self, connection: sqlite3.Connection) -> None:
        """Take in what lies here as lines of JSON, each file once, even when it is cut off meanwhile."""
        for segment in sorted(self._folder.glob(LEGACY)):
            segment.rename(self._folder / f"{segment.stem}-{os.urandom(6).hex()}{CARRYING}")
        for segment in sorted(self._folder.glob(f"*{CARRYING}")):
            with database.writing(connection):
                new = connection.execute("INSERT OR IGNORE INTO carried VALUES (?)", (segment.name,)).rowcount
                for event in _lines(segment) if new else ():
                    self._insert(connection, event)
                self._make_room(connection)
            segment.unlink()
        with suppress(FileNotFoundError):
            (self._folder / "dropped").unlink()


def read(folder: Path, after: int = 0, limit: int = -1, name: str = "") -> Spooled:
    """Read the spool at `folder`: the events with numbers above `after`, `limit` at most.

    Of a spool with another `name` than the one given, all: what was read of one before does not count. Raise
    IntegrityError when it cannot be read.
    """
    with database.look(folder / FILE) as connection:
        if connection is None or (spool := _spool(connection)) is None:
            return Spooled("", [], 0, 0)
        begin = after if name in {"", spool[0]} else 0
        rows = connection.execute(f"{EVENTS} WHERE id > ? ORDER BY id LIMIT ?", (begin, limit))
        events = [(row[0], RequestFinished(*row[1:])) for row in rows]
        (last,) = connection.execute("SELECT max(id) FROM events").fetchone()
        return Spooled(spool[0], events, spool[1], last or 0)


def statuses(folder: Path, digest: str, after: int) -> list[int]:
    """Return the HTTP statuses of an artifact's requests with numbers above `after`."""
    with database.look(folder / FILE) as connection:
        if connection is None:
            return []
        rows = connection.execute(
            "SELECT status FROM events JOIN served ON served.number = events.served "
            "WHERE digest = ? AND id > ? ORDER BY id",
            (digest, after),
        )
        return [status for (status,) in rows]


def span(connection: sqlite3.Connection) -> tuple[Any, Any]:
    """Return the lowest and the highest number; None and None of an empty spool."""
    # One at a time: of both at once SQLite reads the whole table.
    lowest = connection.execute("SELECT min(id) FROM events").fetchone()[0]
    return lowest, connection.execute("SELECT max(id) FROM events").fetchone()[0]


def _spool(connection: sqlite3.Connection) -> Any:
    """Return the spool's name, and how many events it dropped."""
    return connection.execute("SELECT name, dropped FROM spool").fetchone()


def _sum_up(connection: sqlite3.Connection, block: int) -> None:
    """Keep what a block that gets no more events comes to, by artifact."""
    found: dict[str, list[RequestFinished]] = {}
    for row in connection.execute(f"{EVENTS} WHERE id >= ? AND id < ?", (block * BLOCK, (block + 1) * BLOCK)):
        found.setdefault(row[3], []).append(RequestFinished(*row[1:]))
    for digest, events in found.items():
        told = json.dumps(asdict(summarise(events)), separators=(",", ":"))
        connection.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", (block, digest, told))


def _lines(path: Path) -> Iterable[RequestFinished]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(DocumentError):
            yield parse(line)

"""Keep what devices told of themselves, on the operator's machine: each event once, whatever was cut when.

It does not know how devices are reached. Laws: an event is known by its device, the name of that device's
spool and its number there, and is kept once; how far a device was heard is written down together with what
it said, or not at all; several may gather at the same time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.errors import DocumentError
from slmops.telemetry import database
from slmops.telemetry.events import RequestFinished, unpack
from slmops.telemetry.summary import Summary, merge, summarise

LOG_PAGES = 4000
AT_ONCE = 4096
"""Events that are held in memory to be counted."""
EVENTS, SAMPLES = "events", "samples"
SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    number INTEGER PRIMARY KEY, device TEXT NOT NULL, what TEXT NOT NULL, spool TEXT NOT NULL,
    last INTEGER NOT NULL, dropped INTEGER NOT NULL, at REAL NOT NULL, UNIQUE (device, what, spool));
CREATE TABLE IF NOT EXISTS served (
    number INTEGER PRIMARY KEY, release TEXT NOT NULL, digest TEXT NOT NULL, label TEXT NOT NULL,
    kind TEXT NOT NULL, UNIQUE (release, digest, label, kind));
CREATE TABLE IF NOT EXISTS events (
    source INTEGER, id INTEGER, time REAL, served INTEGER, status INTEGER, prompt_tokens INTEGER,
    output_tokens INTEGER, first_token_seconds REAL, seconds REAL, PRIMARY KEY (source, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    source INTEGER, id INTEGER, said TEXT, PRIMARY KEY (source, id)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Seen:
    """What one version came to on one device."""

    device: str
    release: str
    digest: str
    summary: Summary
    last: float
    """When its last request finished, by the device's clock."""


class Gathered:
    """The operator's file; one of these for each thread. Use `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def heard(self, device: str, what: str) -> dict[str, Any]:
        """Return {spool, after}: how far this device was heard, as it is asked to go on."""
        row = self._connection.execute(
            "SELECT spool, last FROM sources WHERE device = ? AND what = ? "
            "ORDER BY at DESC, number DESC LIMIT 1",
            (device, what),
        ).fetchone()
        return {"spool": row[0], "after": row[1]} if row else {"spool": "", "after": 0}

    def keep(self, device: str, said: dict[str, Any]) -> int:
        """Keep what a device answered to `telemetry`; return how many of the events are new.

        Raises DocumentError when it is not such an answer.
        """
        events = unpack(said)
        with database.writing(self._connection):
            source = self._source(device, EVENTS, said, [number for number, _ in events])
            new = 0
            put = "INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            for number, event in events:
                row = (
                    *(source, number, event.time, self._served(event), event.status, event.prompt_tokens),
                    *(event.output_tokens, event.first_token_seconds, event.seconds),
                )
                new += self._connection.execute(put, row).rowcount
        return new

    def keep_samples(self, device: str, said: dict[str, Any]) -> int:
        """Keep what a device answered to `samples`; return how many of them are new."""
        try:
            samples = [(int(each["id"]), json.dumps(each)) for each in said["samples"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError(f"samples: not as a device tells them: {error!r}") from error
        with database.writing(self._connection):
            source = self._source(device, SAMPLES, said, [number for number, _ in samples])
            put = "INSERT OR IGNORE INTO samples VALUES (?, ?, ?)"
            return sum(self._connection.execute(put, (source, *each)).rowcount for each in samples)

    def events(
        self, devices: Collection[str] | None = None
    ) -> Iterator[tuple[str, str, int, RequestFinished]]:
        """Yield (device, spool, number, event) of these devices, or of all."""
        rows = self._connection.execute(
            "SELECT device, spool, id, time, release, digest, status, prompt_tokens, output_tokens, "
            "first_token_seconds, seconds, label, kind FROM events "
            "JOIN sources ON sources.number = events.source JOIN served ON served.number = events.served "
            "ORDER BY source, id"
        )
        for device, spool, number, *event in rows:
            if devices is None or device in devices:
                yield device, spool, number, RequestFinished(*event)

    def samples(self, devices: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the samples of these devices, or of all, with the device that each is from."""
        rows = self._connection.execute(
            "SELECT device, said FROM samples JOIN sources ON sources.number = samples.source "
            "ORDER BY source, id"
        )
        for device, said in rows:
            if devices is None or device in devices:
                yield {"device": device, **json.loads(said)}

    def seen(self, devices: Collection[str] | None = None) -> list[Seen]:
        """Return what every version came to on each of these devices, or on all, by device and release."""
        found: dict[tuple[str, str, str], tuple[Summary, float]] = {}
        held: dict[tuple[str, str, str], list[RequestFinished]] = {}

        def count(key: tuple[str, str, str]) -> None:
            events = held.pop(key)
            summary, last = found.get(key, (Summary(), 0.0))
            found[key] = merge(summary, summarise(events)), max(last, *(event.time for event in events))

        for device, _, _, event in self.events(devices):
            key = (device, event.release, event.digest)
            held.setdefault(key, []).append(event)
            if len(held[key]) == AT_ONCE:
                count(key)
        for key in list(held):
            count(key)
        return [Seen(*key, *found[key]) for key in sorted(found)]

    def dropped(self) -> dict[str, int]:
        """Return how many events each device dropped before anybody asked for them, or told so."""
        rows = self._connection.execute(
            "SELECT device, sum(dropped) FROM sources WHERE what = ? GROUP BY device", (EVENTS,)
        )
        return dict(rows)

    def _source(self, device: str, what: str, said: dict[str, Any], numbers: list[int]) -> int:
        """Write down how far a device was heard; return its number here."""
        try:
            spool, dropped = str(said["spool"]), int(said.get("dropped", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise DocumentError(f"telemetry: not as a device tells it: {error!r}") from error
        row = self._connection.execute(
            "INSERT INTO sources (device, what, spool, last, dropped, at) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET last = max(last, excluded.last), dropped = excluded.dropped, "
            "at = excluded.at",
            (device, what, spool, max(numbers, default=0), dropped, time.time()),
        )
        row = self._connection.execute(
            "SELECT number FROM sources WHERE device = ? AND what = ? AND spool = ?", (device, what, spool)
        )
        return int(row.fetchone()[0])

    def _served(self, event: RequestFinished) -> int:
        served = (event.release, event.digest, event.label, event.kind)
        self._connection.execute(
            "INSERT OR IGNORE INTO served (release, digest, label, kind) VALUES (?, ?, ?, ?)", served
        )
        where = "release = ? AND digest = ? AND label = ? AND kind = ?"
        return int(self._connection.execute(f"SELECT number FROM served WHERE {where}", served).fetchone()[0])  # noqa: S608


@contextmanager
def opened(path: Path) -> Iterator[Gathered]:
    """Open the operator's file, made when missing; raise OSError or sqlite3.Error where that fails."""
    connection = database.open_for_writing(path, SCHEMA, LOG_PAGES)
    try:
        connection.execute("PRAGMA busy_timeout = 60000")
        yield Gathered(connection)
    finally:
        connection.close()

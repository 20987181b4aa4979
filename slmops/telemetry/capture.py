"""Prompts and answers kept on the device, where somebody asked for it: a share of them, and redacted.

Off unless it is opened. Which requests are kept follows from their ids alone, so that whoever knows an id
knows whether it was kept. It does not know who comes to read.

Laws: nothing is kept that `redact` has not been over; files never hold more bytes than the limit, nor
anything older than so many days once something is offered; writing never raises; a number is given once.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.telemetry import database
from slmops.telemetry.events import RequestFinished

if TYPE_CHECKING:
    import sqlite3

FILE = "capture.sqlite"
LIMIT_BYTES = 8 << 20
LEAST_BYTES = 512 << 10
DAYS = 14.0
DAY = 86400.0
LONGEST = 16_384
"""Letters that are kept of a prompt, and of an answer."""
OVERLAP = 1024
"""Letters beyond those that are looked at as well: what is cut in half is not known for what it is."""
LOG_PAGES = 256
SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (id INTEGER PRIMARY KEY, time REAL NOT NULL, said TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Captured:
    """What was kept, or a part of it, in the order in which it was."""

    name: str
    """Of the file; empty where there is none."""
    samples: list[dict[str, Any]]
    """{id, time, release, digest, label, kind, status, request, prompt, answer, redacted}."""
    last: int
    """The highest number there is."""


def chosen(request: str, share: float) -> bool:
    """Say whether a request with this id is among the `share` (0 to 1) that is kept."""
    drawn = int.from_bytes(hashlib.sha256(request.encode("utf-8", "replace")).digest()[:8], "big")
    return drawn < share * 2**64


class Capture:
    """The writing end, for one thread at a time."""

    def __init__(
        self, folder: Path, share: float, *, limit_bytes: int = LIMIT_BYTES, days: float = DAYS
    ) -> None:
        """Keep that share of requests in `folder`, so many bytes at most, for so many days."""
        self.share = share
        self.kept = 0
        """Since the start."""
        self.lost = 0
        """That could not be written, since the start."""
        self._days = days
        room = (max(LEAST_BYTES, limit_bytes) - database.SHARED) // database.PAGE
        log_pages = min(LOG_PAGES, room // 8)
        self._most = room - 3 * log_pages
        self._writer = database.Writer(folder / FILE, SCHEMA, "samples", log_pages, _forget_for_good)

    def wants(self, request: str) -> bool:
        """Say whether this request is one to be offered; nothing need be gathered of others."""
        return chosen(request, self.share)

    def offer(self, event: RequestFinished, request: str, prompt: str, answer: str) -> bool:
        """Keep a request if it is chosen, redacted; say whether it was kept."""
        if not self.wants(request):
            return False
        said = _said(event, request, prompt, answer)
        kept = self._writer.write(lambda connection: self._keep(connection, event.time, said))
        self.kept += kept
        self.lost += not kept
        return kept

    def close(self) -> None:
        """Let the file go; what is kept next opens it again."""
        self._writer.close()

    def _keep(self, connection: sqlite3.Connection, at: float, said: str) -> None:
        number = self._writer.number(connection)
        connection.execute("INSERT INTO samples VALUES (?, ?, ?)", (number, at, said))
        connection.execute("DELETE FROM samples WHERE time < ?", (at - self._days * DAY,))
        oldest = "SELECT id FROM samples WHERE id < ? ORDER BY id LIMIT 8"
        while database.pages(connection) > self._most:
            if not connection.execute(f"DELETE FROM samples WHERE id IN ({oldest})", (number,)).rowcount:  # noqa: S608
                return


def read(folder: Path, after: int = 0, limit: int = -1, name: str = "") -> Captured:
    """Read what was kept at `folder`: numbers above `after`, `limit` at most; see `spool.read`."""
    with database.look(folder / FILE) as connection:
        if connection is None or (row := connection.execute("SELECT name FROM spool").fetchone()) is None:
            return Captured("", [], 0)
        begin = after if name in {"", row[0]} else 0
        rows = connection.execute(
            "SELECT id, said FROM samples WHERE id > ? ORDER BY id LIMIT ?", (begin, limit)
        )
        samples = [{"id": number, **json.loads(said)} for number, said in rows]
        (last,) = connection.execute("SELECT max(id) FROM samples").fetchone()
        return Captured(row[0], samples, last or 0)


def forget(folder: Path) -> None:
    """Remove all that was kept at `folder`; raise OSError where it cannot be."""
    for part in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            (folder / f"{FILE}{part}").unlink()


def _said(event: RequestFinished, request: str, prompt: str, answer: str) -> str:
    from slmops.telemetry.redact import redact  # noqa: PLC0415 - takes long to load, and most keep nothing

    clean_prompt, clean_answer = (redact(text[: LONGEST + OVERLAP]) for text in (prompt, answer))
    kept_prompt, kept_answer = _cut(clean_prompt.text, prompt), _cut(clean_answer.text, answer)
    return (
        json.dumps(
            {
                "time": event.time,
                "release": event.release,
                "digest": event.digest,
                "label": event.label,
                "kind": event.kind,
                "status": event.status,
                "request": redact(request).text,
                "prompt": kept_prompt,
                "answer": kept_answer,
                "redacted": sorted({*clean_prompt.kinds, *clean_answer.kinds}),
            },
            ensure_ascii=False,
        )
        .encode("utf-8", "replace")
        .decode()
    )


def _cut(clean: str, text: str) -> str:
    """Return what is kept of a redacted text: not its last letters where the text went on after them."""
    return clean[:LONGEST] if len(text) <= LONGEST + OVERLAP else clean[:-OVERLAP][:LONGEST]


def _forget_for_good(connection: sqlite3.Connection) -> None:
    """See that what goes for being old is gone from the disk."""
    connection.execute("PRAGMA secure_delete = ON")

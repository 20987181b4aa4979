"""One SQLite file that a daemon writes and others read while it does: opened, looked at, set aside.

It does not know what is in it. A write is not synced to the disk by itself: SQLite's log is, each time it is
merged, which is what `synchronous = NORMAL` means beside a write-ahead log. A process that is killed loses
nothing that way; a power cut may take the last seconds, and leaves a whole file. A sync for each event
would wear a memory card and hold up whoever waits for it, for numbers that nobody mourns.

Things in such a file have numbers, and the file a name. Laws: a number is given once, even when a power cut
took what had it before; writing never raises, it says whether it was done; a reader never makes a file, never
writes one and never waits for a writer; what is no database any more is moved out of the way whole, and a new
one begins beside it.
This file runs on devices too: standard library only, Python 3.9. Some systems leave sqlite3 out of Python's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.errors import IntegrityError, MissingPartError

if TYPE_CHECKING:
    import sqlite3

PAGE = 1024
"""Bytes of a page, the least that a write costs."""
SHARED = 32768
"""Bytes of the index of a write-ahead log, a file beside it."""
PATIENCE = 5.0
"""Seconds that one who writes is waited for."""
GAP = 1 << 20
"""Numbers that are left out whenever a file is opened: more than a power cut can take."""
SPOOL = """
CREATE TABLE IF NOT EXISTS spool (name TEXT NOT NULL, dropped INTEGER NOT NULL, floor INTEGER NOT NULL);"""
BESIDE = ("", "-wal", "-shm")
ASIDE = ".damaged"


def module() -> Any:
    """Return Python's sqlite3; raise MissingPartError where the system left it out."""
    try:
        import sqlite3  # noqa: PLC0415 - may be missing, and an agent starts often
    except ImportError as error:
        raise MissingPartError(
            "this Python has no sqlite3, where telemetry is kept", remedy="apt-get install python3"
        ) from error
    return sqlite3


class Writer:
    """Who writes one file, for one thread at a time."""

    def __init__(
        self,
        path: Path,
        schema: str,
        numbered: str,
        log_pages: int,
        begun: Callable[[sqlite3.Connection], None] = lambda connection: None,
    ) -> None:
        """Take the file, made when something is written; `numbered` is the table whose ids rise.

        `begun` is called whenever it was opened.
        """
        self.path = path
        self.floor = 0
        """No number given from now on is at or below this."""
        self.why = ""
        """What could not be written last could not be for this."""
        self._schema, self._numbered, self._log_pages, self._begun = schema, numbered, log_pages, begun
        self._connection: sqlite3.Connection | None = None

    def write(self, act: Callable[[sqlite3.Connection], None]) -> bool:
        """Do all that `act` does to the file, or nothing; say whether it was done."""
        for _ in range(2):
            try:
                with writing(self._open()) as connection:
                    act(connection)
            except (MissingPartError, OSError) as error:
                self.why = str(error)
                break
            except module().Error as error:
                self.close()
                self.why = str(error)
                # A file that is no database any more, rather than one that cannot be written now.
                if type(error) is not module().DatabaseError:
                    break
                set_aside(self.path)
            else:
                return True
        return False

    def close(self) -> None:
        """Let the file go; what is written next opens it again."""
        if self._connection is not None:
            with suppress(module().Error):
                self._connection.close()
        self._connection = None

    def number(self, connection: sqlite3.Connection) -> int:
        """Return the number of what is written next."""
        last = connection.execute(f"SELECT max(id) FROM {self._numbered}").fetchone()[0]  # noqa: S608 - our own
        return max(last or 0, self.floor) + 1

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_for_writing(self.path, SPOOL + self._schema, self._log_pages)
            self.floor = self._set_aside_numbers(self._connection)
            self._begun(self._connection)
        return self._connection

    def _set_aside_numbers(self, connection: sqlite3.Connection) -> int:
        """Give a new file its name; of one that was there set apart, for good, numbers that may be given."""
        connection.execute("PRAGMA synchronous = FULL")
        with writing(connection):
            if connection.execute("SELECT * FROM spool").fetchone() is None:
                connection.execute("INSERT INTO spool VALUES (?, 0, 0)", (os.urandom(8).hex(),))
            else:
                floor = self.number(connection) - 1 + GAP
                connection.execute("UPDATE spool SET floor = max(floor + ?, ?)", (GAP, floor))
        connection.execute("PRAGMA synchronous = NORMAL")
        return int(connection.execute("SELECT floor FROM spool").fetchone()[0])


def open_for_writing(path: Path, schema: str, log_pages: int) -> sqlite3.Connection:
    """Open the file, made when missing; its log is merged into it whenever it has so many pages.

    Any thread may use it, one at a time. Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    connection: sqlite3.Connection = module().connect(
        str(path), timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
        connection.execute(f"PRAGMA journal_size_limit = {log_pages * PAGE}")
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            # Who reads meanwhile finds no table, or all.
            schema = f"BEGIN IMMEDIATE; {schema} COMMIT;"
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Do all that is done within, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled back by itself.
        with suppress(module().Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def look(path: Path) -> Iterator[sqlite3.Connection | None]:
    """Read the file as it is at one moment; None where there is none, or nothing in it yet.

    Raises IntegrityError when it cannot be read, MissingPartError without sqlite3.
    """
    if not path.exists():
        yield None
        return
    sqlite = module()
    try:
        where = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite.connect(where, uri=True, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            begun = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            yield connection if begun else None
    except sqlite.Error as error:
        raise IntegrityError(
            f"{path} cannot be read: {error}",
            remedy="What is damaged the daemon sets aside when it next writes; what was in it is lost.",
        ) from error


def set_aside(path: Path) -> None:
    """Move a damaged file away, for who wants to see it; one that was moved away before goes."""
    for ending in BESIDE:
        kept, damaged = Path(f"{path}{ASIDE}{ending}"), Path(f"{path}{ending}")
        with suppress(FileNotFoundError):
            kept.unlink()
        with suppress(FileNotFoundError):
            damaged.replace(kept)


def pages(connection: sqlite3.Connection) -> int:
    """Return how many pages hold something."""
    counted = connection.execute("PRAGMA page_count").fetchone()[0]
    return int(counted - connection.execute("PRAGMA freelist_count").fetchone()[0])


def held(path: Path) -> int:
    """Return the bytes that the file and what lies beside it have on disk."""
    total = 0
    for ending in BESIDE:
        with suppress(FileNotFoundError):
            total += Path(f"{path}{ending}").stat().st_size
    return total

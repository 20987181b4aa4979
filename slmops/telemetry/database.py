"""One SQLite file that a daemon writes and others read while it does: opened, looked at, set aside.

It does not know what is in it. A write is not synced to the disk by itself: SQLite's log is, each time it is
merged, which is what `synchronous = NORMAL` means beside a write-ahead log. A process that is killed loses
nothing that way; a power cut may take the last seconds, and leaves a whole file. A sync for each event
would wear a memory card and hold up whoever waits for it, for numbers that nobody mourns.

Laws: a reader never makes a file, never writes one and never waits for a writer; what is no database any more
is moved out of the way whole, and a new one begins beside it.
This file runs on devices too: standard library only, Python 3.9. Some systems leave sqlite3 out of Python's.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """Read the file as it is at one moment; None where there is none.

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
            yield connection
    except sqlite.Error as error:
        raise IntegrityError(
            f"{path} cannot be read: {error}",
            remedy="What is damaged the daemon sets aside when it next writes; what was in it is lost.",
        ) from error


def is_damage(error: Exception) -> bool:
    """Say whether an error means that the file is no database any more, rather than that it is not now."""
    return type(error) is module().DatabaseError


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
    counted, free = (connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count"))
    return int(counted - free)


def held(path: Path) -> int:
    """Return the bytes that the file and what lies beside it have on disk."""
    total = 0
    for ending in BESIDE:
        with suppress(FileNotFoundError):
            total += Path(f"{path}{ending}").stat().st_size
    return total

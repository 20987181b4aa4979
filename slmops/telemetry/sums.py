"""What a spool comes to by artifact, for whoever asks again and again: each block of events is read once.

It does not know who asks. Laws: what it says is `summarise` of what `spool.read` gives, up to the rounding of
sums of seconds; a block that went is counted no more; a spool that cannot be read comes to nothing.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.errors import IntegrityError, MissingPartError
from slmops.telemetry import database
from slmops.telemetry.events import RequestFinished
from slmops.telemetry.spool import BLOCK, EVENTS, FILE, span
from slmops.telemetry.summary import Summary, merge, summarise

if TYPE_CHECKING:
    import sqlite3


class Sums:
    """The summaries of one spool."""

    def __init__(self, folder: Path) -> None:
        """Take the spool at `folder`, which need not be there yet."""
        self._path = folder / FILE
        self._kept: dict[tuple[str, str], _Kept] = {}

    def of(self, digest: str) -> Summary:
        """Return what the requests that this artifact answered come to, by now."""
        try:
            with database.look(self._path) as connection:
                return self._of(connection, digest) if connection else Summary()
        except (IntegrityError, MissingPartError):
            return Summary()

    def _of(self, connection: sqlite3.Connection, digest: str) -> Summary:
        ((name,),) = connection.execute("SELECT name FROM spool")
        first, last = span(connection)
        if last is None:
            return Summary()
        kept = self._kept.get((name, digest), _Kept())
        if kept.first < first // BLOCK:
            # What went cannot be taken away from sums.
            kept = _Kept()
        self._kept[name, digest] = kept = kept.read_on(connection, digest)
        newest = connection.execute(
            f"{EVENTS} WHERE id >= ? AND digest = ?",
            (last // BLOCK * BLOCK, digest),
        )
        return merge(kept.total, summarise(RequestFinished(*row[1:]) for row in newest))


@dataclass(frozen=True)
class _Kept:
    """The sums of the blocks that were full when it was last asked, for one artifact."""

    first: float = float("inf")
    """The oldest of them."""
    last: int = -1
    total: Summary = field(default_factory=Summary)

    def read_on(self, connection: sqlite3.Connection, digest: str) -> _Kept:
        """Count the blocks that have become full since."""
        first, last, total = self.first, self.last, self.total
        full = connection.execute(
            "SELECT block, summary FROM sums WHERE digest = ? AND block > ? ORDER BY block", (digest, last)
        )
        for block, told in full:
            first, last, total = min(first, block), block, merge(total, _parse(told))
        return _Kept(first, last, total)


def _parse(told: str) -> Summary:
    said: dict[str, Any] = json.loads(told)
    lists = {key: tuple(map(tuple, value)) for key, value in said.items() if isinstance(value, list)}
    return Summary(**{**said, **lists})

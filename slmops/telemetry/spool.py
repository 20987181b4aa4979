"""A bounded ring of events on disk, for a device that is offline more often than not.

Lines are appended to numbered segment files. When all of them together would pass the limit, the
oldest segment goes, and what it held is counted as dropped. It does not know who comes to read.

Laws: the segments never hold more bytes than the limit; what is read comes in the order written;
a line torn by a power cut costs that line alone.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from slmops.errors import DocumentError
from slmops.telemetry.events import RequestFinished, parse, render

LIMIT_BYTES = 4 * 1024 * 1024
SEGMENTS = 8
"""Segments that a full spool has: one eighth is what goes at a time."""
DROPPED = "dropped"


@dataclass(frozen=True)
class Spooled:
    """What a spool holds: its events in order, and how much is not there any more."""

    events: list[RequestFinished]
    dropped: int
    """Lines that went to stay within the limit."""
    unreadable: int
    """Lines that are torn, or not events."""


class Spool:
    """The writing end; reading needs no more than the folder (see `read`)."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Open `folder`, made when missing, to hold at most `limit_bytes`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._limit = limit_bytes
        self._torn = _is_torn(segments(folder)[-1:])

    def append(self, event: RequestFinished) -> None:
        """Write one event; raise OSError when the disk will not have it.

        A single write to a file opened for appending, so that two daemons (one draining, one
        starting) do not tear each other's lines.
        """
        line = (render(event) + "\n").encode()
        if self._torn:
            line = b"\n" + line
        segment = self._make_room(len(line))
        handle = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._torn = os.write(handle, line) != len(line)
        finally:
            os.close(handle)

    def _make_room(self, size: int) -> Path:
        there = segments(self._folder)
        current = there[-1] if there else self._folder / _name(1)
        if there and current.stat().st_size + size > self._limit // SEGMENTS:
            current = self._folder / _name(int(current.stem) + 1)
        held = sum(segment.stat().st_size for segment in there)
        for oldest in there:
            if held + size <= self._limit or oldest == current:
                break
            held -= oldest.stat().st_size
            self._drop(oldest)
        return current

    def _drop(self, segment: Path) -> None:
        count = _dropped(self._folder) + segment.read_bytes().count(b"\n")
        fresh = self._folder / f"{DROPPED}.new"
        fresh.write_text(f"{count}\n", encoding="ascii")
        fresh.replace(self._folder / DROPPED)
        segment.unlink()


def read(folder: Path) -> Spooled:
    """Read all that the spool at `folder` holds, oldest first; a missing folder holds nothing."""
    events: list[RequestFinished] = []
    unreadable = 0
    for segment in segments(folder):
        try:
            text = segment.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            # It went since it was listed, as the oldest does; it is counted as dropped.
            continue
        for line in text.splitlines():
            if not line:
                continue
            try:
                events.append(parse(line))
            except DocumentError:
                unreadable += 1
    return Spooled(events, _dropped(folder), unreadable)


def _name(number: int) -> str:
    return f"{number:010d}.jsonl"


def segments(folder: Path) -> list[Path]:
    """Return the files of a spool, oldest first."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def _is_torn(last: list[Path]) -> bool:
    return bool(last) and not last[0].read_bytes().endswith(b"\n")


def _dropped(folder: Path) -> int:
    """Return the count on disk; a torn or missing one counts from zero again."""
    try:
        return int((folder / DROPPED).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0

"""What a spool comes to by artifact, for whoever asks again and again: each line is read once.

It does not know who asks. Laws: what it says is `summarise` of what `spool.read` gives, up to the rounding of
sums of seconds and a last line that is still being written; a segment that went is counted no more.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from slmops.errors import DocumentError
from slmops.telemetry.events import RequestFinished, parse
from slmops.telemetry.spool import segments
from slmops.telemetry.summary import Summary, merge, summarise


class Sums:
    """The summaries of one spool, segment by segment."""

    def __init__(self, folder: Path) -> None:
        """Take the spool at `folder`, which need not be there yet."""
        self._folder = folder
        self._segments: dict[str, _Segment] = {}

    def of(self, digest: str) -> Summary:
        """Return what the requests that this artifact answered come to, by now."""
        there = {path.name: path for path in segments(self._folder)}
        self._segments = {name: self._segments.get(name) or _Segment() for name in there}
        total = Summary()
        for name, segment in self._segments.items():
            # One that went since it was listed is listed no more the next time.
            with suppress(FileNotFoundError):
                segment.read_on(there[name])
            total = merge(total, segment.sums.get(digest, Summary()))
        return total


class _Segment:
    def __init__(self) -> None:
        self.file, self.read = 0, 0
        self.sums: dict[str, Summary] = {}

    def read_on(self, path: Path) -> None:
        """Count the lines that came since; another file of the same name is counted from its beginning."""
        seen = path.stat()
        if seen.st_ino != self.file or seen.st_size < self.read:
            self.file, self.read, self.sums = seen.st_ino, 0, {}
        if seen.st_size == self.read:
            return
        with path.open("rb") as file:
            file.seek(self.read)
            lines, _, _ = file.read().rpartition(b"\n")
        if not lines:
            return
        self.read += len(lines) + 1
        found: dict[str, list[RequestFinished]] = {}
        for event in _events(lines.decode("utf-8", "replace").splitlines()):
            found.setdefault(event.digest, []).append(event)
        for digest, events in found.items():
            self.sums[digest] = merge(self.sums.get(digest, Summary()), summarise(events))


def _events(lines: Iterable[str]) -> Iterable[RequestFinished]:
    for line in lines:
        try:
            yield parse(line)
        except DocumentError:
            continue

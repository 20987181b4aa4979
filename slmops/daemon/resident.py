"""What a gate and a swap need of a worker, and of who keeps workers: the seam that lets them be tested.

Pure: protocols alone. `tend.Worker` and `keep.House` are what stands behind them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from slmops.daemon.protocol import Done, Kind, Piece, Ready
from slmops.daemon.versions import Version


class Resident(Protocol):
    """A worker, as far as a swap needs it."""

    version: Version
    state: str
    ready: Ready | None
    pid: int | None
    crashes: int
    last_exit: int | None
    why: str
    words: Sequence[str]

    def ask(self, kind: Kind, body: bytes, answer: str, created: int) -> AsyncGenerator[Piece | Done]:
        """See `tend.Worker.ask`."""
        ...


class House(Protocol):
    """Where the workers are."""

    words: Sequence[str]
    """The last lines of the worker that did not load last."""

    @property
    def versions(self) -> Mapping[str, Version]:
        """Return the resident versions by digest."""
        ...

    def resident(self, digest: str) -> Resident | None:
        """Return the worker of a version, whatever its state; None where there is none."""
        ...

    async def open(self, version: Version) -> Resident:
        """Return a worker that has spoken; raise ModelError when the version does not load."""
        ...

    async def close(self, digest: str, drain: float) -> None:
        """End a version's worker, if there is one; what it has begun is given `drain` seconds."""
        ...

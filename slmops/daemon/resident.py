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

    @property
    def version(self) -> Version:
        """Return which version it is of."""
        ...

    @property
    def state(self) -> str:
        """Return how it stands: see `tend.State`."""
        ...

    @property
    def ready(self) -> Ready | None:
        """Return what it said when it had loaded."""
        ...

    @property
    def pid(self) -> int | None:
        """Return its process."""
        ...

    @property
    def crashes(self) -> int:
        """Return how often it ended by itself."""
        ...

    @property
    def last_exit(self) -> int | None:
        """Return how it ended last."""
        ...

    @property
    def why(self) -> str:
        """Return why it failed last."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """Return the last lines that it wrote."""
        ...

    def ask(self, kind: Kind, body: bytes, answer: str, created: int) -> AsyncGenerator[Piece | Done]:
        """See `tend.Worker.ask`."""
        ...


class House(Protocol):
    """Where the workers are."""

    @property
    def words(self) -> Sequence[str]:
        """Return the last lines of the worker that was opened last and did not load."""
        ...

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

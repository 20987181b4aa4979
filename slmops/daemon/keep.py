"""The versions that are resident: each with its worker, opened and closed as it is told.

It does not know labels, gates or clients.

Laws: one worker a version; one that does not load leaves nothing behind; a version that is being closed takes
no new turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slmops.daemon.tend import Plan, Worker
from slmops.daemon.versions import Version


class House:
    """Workers by the digest of their version."""

    def __init__(self, plan: Plan, changed: Callable[[], None]) -> None:
        """Keep nobody yet; `changed` is called when a worker's state or room changes."""
        self.workers: dict[str, Worker] = {}
        self.words: Sequence[str] = ()
        """The last lines of the worker that was opened last and did not load."""
        self._plan = plan
        self._changed = changed

    @property
    def versions(self) -> dict[str, Version]:
        """Return the resident versions by digest."""
        return {digest: worker.version for digest, worker in self.workers.items()}

    def resident(self, digest: str) -> Worker | None:
        """Return the worker of a version, whatever its state; None where there is none."""
        return self.workers.get(digest)

    async def open(self, version: Version) -> Worker:
        """Return a worker that has spoken; raise ModelError when the version does not load.

        The caller bounds the time, by cancelling.
        """
        there = self.workers.get(version.digest)
        if there is not None and there.state == "ready":
            there.held = False
            self._changed()
            return there
        if there is not None:
            await self.close(version.digest, 0)
        worker = self.workers[version.digest] = Worker(version, self._plan, self._changed)
        try:
            await worker.start()
        except BaseException:
            self.workers.pop(version.digest, None)
            self.words = worker.words
            raise
        return worker

    async def close(self, digest: str, drain: float) -> None:
        """End a version's worker; what it has begun is given `drain` seconds."""
        worker = self.workers.get(digest)
        if worker is None:
            return
        await worker.stop(drain)
        if self.workers.get(digest) is worker:
            del self.workers[digest]
        self._changed()

    async def close_all(self, drain: float) -> None:
        """End all workers."""
        for digest in list(self.workers):
            await self.close(digest, drain)

"""What the daemon's handlers share: versions, the waiting line, and what is told of each request.

It does not know HTTP's paths or bodies. Writing the spool and reading the machine's pressure are a clerk's (a
thread), so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmops.daemon import cache as caches
from slmops.daemon import pressure, read_pressure, records, room, versions, weigh
from slmops.daemon.api import ChatRequest, CompletionRequest
from slmops.daemon.cache import Kept
from slmops.daemon.desk import MAX_PAUSE, RETRY_SECONDS, SEATS, Desk
from slmops.daemon.journal import Journal
from slmops.daemon.keep import House
from slmops.daemon.metrics import Metrics, Now, Resident
from slmops.daemon.protocol import Done
from slmops.daemon.refusal import NOT_FOUND, NOT_READY, SERVER_ERROR, RefusedError, WorkerLostError
from slmops.daemon.relay import Errand
from slmops.daemon.tend import Plan, Worker
from slmops.daemon.traffic import Comparison, Shadow, Traffic
from slmops.daemon.versions import State
from slmops.daemon.visit import OK, Visit
from slmops.telemetry.capture import Capture
from slmops.telemetry.spool import Spool

log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Settings:
    """How a daemon is run."""

    plan: Plan = field(default_factory=Plan)
    seats: int = SEATS
    max_pause: float = MAX_PAUSE
    drain: float = 8.0
    """Seconds that requests in flight are given when the daemon, or a version, is stopped."""
    state: Path | None = None
    spool: Path | None = None
    keys: Path | None = None
    cors: tuple[str, ...] = ()
    cache: int = 0
    """Bytes of answers that are kept to be given again; 0 keeps none."""
    capture: float = 0.0
    """Share of the requests whose prompt and answer are kept, redacted."""
    memory_limit: int | None = None
    """Bytes that the daemon may take; None: what the machine says."""


class Service:
    """The daemon, but for its sockets."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self.desk = Desk(settings.seats, settings.max_pause)
        self.house = House(settings.plan, self._stirred)
        self.cache = caches.Cache(settings.cache) if settings.cache else None
        self.reading = read_pressure.read()
        self.comparison: Comparison | None = None
        """What two versions have shown since requests were shared between them."""
        self.turned_away: Callable[[], Mapping[str, int]] = dict
        """How many were not let in, or were cut off, by reason: whoever keeps the doors says it."""
        self._journal = journal
        self._labelled: set[str] = set()
        self._before = journal.state
        self._ended: dict[str, int] = {}
        self._shedding = ""
        self._shadows: set[asyncio.Task[None]] = set()
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="clerk")
        self._spool = Spool(settings.spool) if settings.spool else None
        self._capture = (
            Capture(settings.spool, settings.capture) if settings.spool and settings.capture else None
        )
        self.metrics = Metrics(
            Now(
                waiting=lambda: self.desk.waiting,
                active=lambda: sum(worker.active for worker in self.house.workers.values()),
                residents=self._residents,
                reading=lambda: self.reading,
                turned_away=lambda: self.turned_away(),  # noqa: PLW0108 - it is set later
                spool=lambda: (
                    (self._spool.bytes, self._spool.dropped + self._spool.lost) if self._spool else (0, 0)
                ),
            )
        )

    @property
    def state(self) -> State:
        """Return which versions there are, and their labels."""
        return self._journal.state

    @property
    def traffic(self) -> Traffic:
        """Return how requests that leave the version open are dealt out."""
        state = self.state
        shadows = [Shadow(label, share) for label, share in state.shadow.items()]
        split = {str(label): share for label, share in state.split.items()} or {"current": 1.0}
        return Traffic(split, next(iter(shadows), None))

    @property
    def current(self) -> Worker | None:
        """Return the worker of the current version; None while there is none."""
        return self.house.resident(self.state.current or "")

    def readiness(self) -> dict[str, Any]:
        """Return what /readyz tells: ready, labels, and of the current version release, digest, scores."""
        worker = self.current
        said: dict[str, Any] = {
            "ready": worker is not None and worker.state == "ready" and not self.desk.is_closed,
            "labels": self.state.labels,
        }
        if worker is not None:
            said |= {"release": worker.version.release, "digest": worker.version.digest}
            said |= {"scores": worker.ready is not None and worker.ready.scores}
        return said

    async def begun(self) -> None:
        """Wait until there is a version to tell of, as long as requests wait for one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.max_pause):
                while self.current is None or self.current.state == "loading":  # noqa: ASYNC110 - seldom
                    await asyncio.sleep(0.05)

    def models(self) -> list[dict[str, Any]]:
        """Return what /v1/models lists: resident versions, by name alone what is, or will be, current."""
        found = []
        for digest, worker in self.house.workers.items():
            described, label = worker.version.description, self.state.label(digest)
            is_plain = label == "current" or self.state.current is None
            name = described.name if is_plain else f"{described.reference}@{digest[:19]}"
            found.append(
                {
                    "id": name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "slmops",
                    "release": described.reference,
                    "digest": digest,
                    "label": label,
                    "adapter": described.adapter,
                }
            )
        return sorted(found, key=lambda each: (each["label"] != "current", each["id"]))

    def model(self, name: str) -> dict[str, Any]:
        """Return what /v1/models says of the version that a name stands for; raise RefusedError for none."""
        wanted = versions.asked(name)
        digest = versions.pick(wanted, self.house.versions, self.state) if wanted else None
        found = [each for each in self.models() if each["digest"] == digest]
        if not found:
            raise self._unknown(name)
        return {**found[0], "id": name}

    def target(self, model: str | None, sticky: str) -> Callable[[], Worker | None]:
        """Return who is to answer a request that calls its model so; it is asked again while it waits.

        Raise RefusedError, at once or when asked, for a model that there is none of.
        """
        wanted = versions.asked(model)
        if wanted is None:
            raise self._unknown(model)
        label = self.traffic.label(sticky) if wanted.is_open else wanted.label

        def target() -> Worker | None:
            worker = self.house.resident(self._meant(model, wanted, label) or "")
            if worker is not None and worker.state == "broken" and not self._is_relieved(worker, wanted):
                raise RefusedError(
                    NOT_READY,
                    f"the worker keeps ending: {worker.why}",
                    reason="worker_broken",
                    retry_after=RETRY_SECONDS,
                )
            return worker if worker is not None and worker.slots else None

        self._meant(model, wanted, label)
        return target

    def refuse_under_pressure(self) -> None:
        """Raise RefusedError while there is too little memory left to take on more."""
        if self._shedding:
            self.metrics.shed()
            raise RefusedError(
                NOT_READY,
                f"too little memory for more requests: {self._shedding}",
                reason="memory_pressure",
                retry_after=RETRY_SECONDS,
            )

    async def watch_pressure(self) -> None:
        """Read each second how hard pressed the machine is; for as long as the daemon lives."""
        loop = asyncio.get_running_loop()
        while True:
            self.reading = await loop.run_in_executor(self._clerk, read_pressure.read)
            told = pressure.shed(self.reading, shedding=bool(self._shedding))
            if bool(told) != bool(self._shedding):
                log.warning("requests are refused: %s", told) if told else log.info(
                    "requests are taken again"
                )
            self._shedding = told
            await asyncio.sleep(1.0)

    def memory(self) -> room.Memory:
        """Return what there is of memory, for who plans to load another version."""
        workers = {digest: worker.pid for digest, worker in self.house.workers.items()}
        return weigh.memory(self.reading, self.settings.memory_limit, workers)

    def moved(self) -> None:
        """Follow the versions' journal, which has one record more."""
        state = self.state
        for digest in self._labelled - set(state.labels.values()):
            if self.cache is not None:
                self.cache.drop(digest)
        self._labelled = set(state.labels.values())
        self._count_moves(state)
        beside = [state.labels[label] for label in (*state.shadow, *state.split) if label != "current"]
        if beside and state.current and self._compared() != (state.current, beside[0]):
            self.comparison = Comparison(state.current, beside[0])
        elif self.comparison is not None and self.comparison.base != state.current:
            self.comparison = None
        self.desk.look()

    def name(self, request: Any, errand: Errand) -> caches.Name | None:
        """Return under what the answer is kept; None where it must be computed each time."""
        worker = errand.target() if self.cache is not None else None
        if worker is None or not isinstance(request, ChatRequest | CompletionRequest):
            return None
        described = worker.version.description
        return caches.name(
            worker.version.digest, worker.version.template, request, described.generation, errand.who
        )

    def remembered(self, name: caches.Name | None) -> Kept | None:
        """Return the answer that is kept under a name."""
        kept = self.cache.find(name) if self.cache is not None and name is not None else None
        if kept is not None:
            self.metrics.hit()
        return kept

    def recalls(self, visit: Visit, digest: str) -> None:
        """Note whose answer a visit is given again."""
        visit.digest, visit.label = digest, self.state.label(digest) or ""
        visit.release = self.state.stage(digest).release

    def remember(
        self, name: caches.Name | None, errand: Errand, visit: Visit, data: bytes, done: Done
    ) -> None:
        """Keep an answer under its name, where it has one and the version that is meant gave it."""
        if self.cache is not None and name is not None and name[0] == visit.digest:
            self.cache.keep(name, Kept(errand.answer, data, done.text))

    def shadow(self, errand: Errand, visit: Visit) -> None:
        """Ask a second version the same, if a share of requests is to be; nobody waits for its answer."""
        label = self.traffic.beside(errand.sticky, visit.label, waiting=self.desk.waiting)
        worker = self.house.resident(self.state.find(label or "") or "")
        busy = any(each.active for each in self.house.workers.values())
        if visit.status == OK and worker is not None and worker.slots and not busy:
            asking = asyncio.ensure_future(self._ask_beside(worker, errand, visit))
            self._shadows.add(asking)
            asking.add_done_callback(self._shadows.discard)

    def begins(self, visit: Visit, worker: Worker) -> None:
        """Note who answers a visit; what is only asked beside gives way."""
        visit.release, visit.digest = worker.version.release, worker.version.digest
        visit.label = self.state.label(worker.version.digest) or ""
        for asking in self._shadows:
            asking.cancel()

    def samples(self, request: str) -> bool:
        """Say whether the request with this id is one whose words are to be kept."""
        return self._capture is not None and self._capture.wants(request)

    def report(self, visit: Visit) -> None:
        """Count a finished visit, here and on disk."""
        event = visit.event()
        self.metrics.count(event, visit.cached_tokens)
        records.finished(event, visit.request, visit.key)
        if self._capture is not None and visit.asked:
            self._clerk.submit(self._capture.offer, event, visit.request, visit.asked, visit.text)
        if self.comparison is not None:
            self.comparison.count(event)
        if self._spool:
            self._clerk.submit(self._spool.append, event)

    async def close(self) -> None:
        """End the workers, and see that what was reported is on disk."""
        for asking in self._shadows:
            asking.cancel()
        await self.house.close_all(0)
        await asyncio.get_running_loop().run_in_executor(None, self._clerk.shutdown)

    async def _ask_beside(self, worker: Worker, errand: Errand, visit: Visit) -> None:
        told = Visit(visit.kind)
        told.release, told.digest, told.label = worker.version.release, worker.version.digest, "shadow"
        try:
            asking = worker.ask(errand.kind, errand.body, errand.answer, errand.created)
            async with aclosing(asking):
                async for said in asking:
                    told.saw(said)
        except RefusedError as refusal:
            told.status = refusal.status
        except WorkerLostError:
            told.status = SERVER_ERROR
        if self.comparison is not None:
            answers = (visit.text, told.text) if told.status == OK else None
            self.comparison.pair(told.event(), answers)

    def _meant(self, model: str | None, wanted: versions.Asked, label: str | None) -> str | None:
        """Return the digest that is meant; None while the version that bears the label is not there.

        Raise RefusedError where there can be none.
        """
        if wanted.version is not None or wanted.digest is not None:
            digest = versions.pick(wanted, self.house.versions, self.state)
            if digest is None:
                raise self._unknown(model)
            return digest
        digest = self.state.find(label or "") or (self.state.current if wanted.is_open else None)
        if digest is None and wanted.is_open:
            return None
        name = self.state.stage(digest or "").release.partition(":")[0]
        if digest is None or wanted.name not in (None, name):
            raise self._unknown(model)
        return digest

    def _is_relieved(self, broken: Worker, wanted: versions.Asked) -> bool:
        """Say whether another version is about to answer in the place of one that is broken."""
        if wanted.version is not None or wanted.digest is not None:
            return False
        if broken.version.digest != self.state.current:
            return wanted.is_open
        spare = self.house.resident(self.state.previous or "")
        return spare is not None and spare.state == "ready"

    def _count_moves(self, state: State) -> None:
        """Count what became of versions since the last record."""
        if state.current != self._before.current and self._before.current is not None:
            if state.withdrawn is not None and state.withdrawn == self._before.current:
                failure = state.stage(state.withdrawn).failure or {}
                self.metrics.rolled_back(failure.get("reason", "asked"))
            else:
                self.metrics.swapped("promoted")
        for digest, stage in state.known.items():
            new = stage.failure is not None and stage.failure != self._before.stage(digest).failure
            if new and digest != state.withdrawn:
                self.metrics.swapped("failed")
        self._before = state

    def _stirred(self) -> None:
        """See who can have a turn now that a worker has changed, and count those that ended by themselves."""
        self.desk.look()
        ended = {digest: worker.crashes for digest, worker in self.house.workers.items()}
        for digest, crashes in ended.items():
            for _ in range(crashes - self._ended.get(digest, 0)):
                self.metrics.restarted()
        self._ended = ended

    def _compared(self) -> tuple[str, str] | None:
        """Return which versions are being compared."""
        return (self.comparison.base, self.comparison.other) if self.comparison else None

    def _residents(self) -> list[Resident]:
        found = []
        for digest, worker in self.house.workers.items():
            said, label = worker.version.description, self.state.label(digest) or ""
            rss, _ = weigh.resident_bytes(worker.pid)
            found.append(
                Resident(
                    *(said.reference, digest, label, rss, said.format, said.type, said.profile),
                    worker.version.template,
                )
            )
        return found

    def _unknown(self, model: str | None) -> RefusedError:
        names = sorted({version.description.name for version in self.house.versions.values()})
        shown = f"; there is {', '.join(map(repr, names))}" if names else ""
        message = f"no model {model!r} here{shown}"
        return RefusedError(NOT_FOUND, message, reason="model_not_found", param="model")

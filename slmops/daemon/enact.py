"""Enact one edge of a version's way: on disk first, then in the house.

It knows what an edge takes; which edge is next, and who may ask for it, is `swap`'s business.

Laws: no worker is opened or closed that the journal does not know of; a version that does not load leaves
its evidence; what the journal names current is tried before anything else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from slmops.daemon import prove, room
from slmops.daemon.describe import read
from slmops.daemon.journal import Journal
from slmops.daemon.refusal import NOT_READY, RefusedError
from slmops.daemon.resident import House
from slmops.daemon.versions import STARTER, Record, State, Version
from slmops.daemon.weigh import resident_bytes
from slmops.errors import ModelError, SlmopsError

CONFLICT, NOT_LOADABLE = 409, 422
SMALLER = "Free memory, or raise --memory-limit, or build a smaller type: slmops quantize --help."
WORDS = 40
"""Last lines of a worker's log that are kept of a version that failed."""
LONGEST = 400
"""Letters that are kept of a line."""
log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Bounds:
    """How long things may take, in seconds, and how much they may hold."""

    load: float = 300.0
    gate: float = prove.SECONDS
    drain: float = 8.0
    """For requests of a version that is to leave."""
    alone: float = 600.0
    """For a candidate that current had to leave for: if it is not promoted by then, current comes back. A
    slow board takes minutes for its golden prompts."""
    pool: int | None = None
    """Tokens of context for all requests of a version; by default its artifact's context."""


class Hand:
    """What writes the journal and moves the workers."""

    def __init__(
        self,
        house: House,
        journal: Journal,
        memory: Callable[[], room.Memory],
        moved: Callable[[], None],
        bounds: Bounds,
        *,
        steered: bool = False,
    ) -> None:
        """Begin with nothing loaded; `moved` is called after each record, `memory` before each load.

        Where labels are `steered` by a keeper they move by his word alone: nothing falls back to previous.
        """
        self.house = house
        self.bounds = bounds
        self.steered = steered
        self._journal = journal
        self._memory = memory
        self._moved = moved
        self._pen = asyncio.Lock()
        self._scribe = ThreadPoolExecutor(1, thread_name_prefix="scribe")

    @property
    def state(self) -> State:
        """Return where the versions stand."""
        return self._journal.state

    def is_ready(self, digest: str) -> bool:
        """Say whether a version is loaded, and its worker there to be asked."""
        worker = self.house.resident(digest)
        return self.state.stage(digest).loaded and worker is not None and worker.state == "ready"

    async def say(
        self,
        kind: str,
        digest: str | None = None,
        *,
        must: bool = True,
        unless: Callable[[State], str] = lambda _state: "",
        **said: Any,
    ) -> None:
        """Write a record, unless a law says why not (RefusedError 409); what acts on it goes after this.

        What need not (`must`) be on disk goes on although the disk refuses it, with SlmopsError else.
        """
        async with self._pen:
            why = unless(self.state)
            if why:
                raise RefusedError(CONFLICT, f"{short(digest or '')}: {why}", reason="not_allowed")
            whose = {"digest": digest} if digest else {}
            record = {"kind": kind, "at": round(time.time(), 3), **whose, **said}
            write = partial(self._journal.write, record, must=must)
            await asyncio.get_running_loop().run_in_executor(self._scribe, write)
        level = logging.WARNING if kind == "failed" else logging.INFO
        log.log(level, "%s", " ".join(filter(None, (kind, short(digest or ""), said.get("why")))))
        self._moved()

    async def close(self) -> None:
        """See the last record to its end; nothing more can be said."""
        await asyncio.to_thread(self._scribe.shutdown)

    async def fail(self, digest: str, why: str, **evidence: Any) -> None:
        """Write down that a version failed, with all that can be said of it before its worker is ended."""
        said = {**self.evidence(digest), **evidence}
        await self.say("failed", digest, must=False, why=why, evidence=said)

    def evidence(self, digest: str) -> Record:
        """Return how a version's worker stands; nothing where there is none."""
        worker = self.house.resident(digest)
        if worker is None:
            return {}
        numbers = {"state": worker.state, "crashes": worker.crashes, "last_exit": worker.last_exit}
        return {**numbers, "why": worker.why, "log": _last(worker.words)}

    async def open(self, version: Version, *, must: bool = True) -> None:
        """Open a version's worker and note what it takes; raise ModelError. `must`: see `say`."""
        digest = version.digest
        await self.say("loading", digest, must=must, folder=version.folder, release=version.release)
        try:
            async with asyncio.timeout(self.bounds.load):
                worker = await self.house.open(version)
        except (SlmopsError, OSError) as error:
            late = f"it did not load within {self.bounds.load:g} s"
            why = late if isinstance(error, TimeoutError) else str(error)
            # What a worker has to say of it comes over its socket, and seldom on stderr too.
            said = [] if isinstance(error, TimeoutError) else str(error).splitlines()
            await self.fail(digest, why, log=_last([*self.house.words, *said]))
            raise ModelError(why) from error
        await self.say("loaded", digest, must=must, memory=resident_bytes(worker.pid)[1])

    async def end(self, digest: str, drain: float | None = None, *, serving: str | None = None) -> None:
        """End a version's worker, and remember how much memory it had come to.

        Raise RefusedError where it has become current meanwhile; `serving` is the one that may be.
        """
        worker = self.house.resident(digest)
        memory = resident_bytes(worker.pid)[1] if worker else 0

        def why_not(state: State) -> str:
            return "it serves" if state.current == digest != serving else ""

        await self.say("dropped", digest, unless=why_not, memory=memory)
        await self.house.close(digest, self.bounds.drain if drain is None else drain)

    async def make_room(self, version: Version) -> room.Plan:
        """Plan how a version comes in, and end those that must leave; raise RefusedError where none can."""
        memory = self._memory()
        others = {digest: size for digest, size in memory.residents.items() if digest != version.digest}
        measured = self.state.stage(version.digest).memory
        needed = room.estimate(self._promised(version), measured)
        serving = self.state.current
        plan = room.plan(replace(memory, residents=others), serving, needed)
        if plan.kind == "refuse":
            why = f"{version.release} does not fit: {plan.why}; {memory.told}"
            numbers = {"estimate": needed, "free": plan.free, "limit": memory.limit, "used": memory.used}
            named: Record = {"folder": version.folder, "release": version.release}
            evidence = {**self.evidence(version.digest), **numbers}
            await self.say("failed", version.digest, must=False, why=why, **named, evidence=evidence)
            raise conflict(why, "does_not_fit", "drop a version, or give the daemon more memory")
        for digest in plan.leave:
            await self.end(digest, serving=serving)
        return plan

    def _promised(self, version: Version) -> int:
        """Return the bytes that a version needs by its artifact's word."""
        said = version.description
        cache = said.predicted.get("kv_cache", 0.0)
        return room.promise(said.memory_bytes, cache, said.context, self.bounds.pool)

    def _require_room(self, version: Version, *, served: bool) -> None:
        """Raise ModelError where a version cannot come in before any other has; `served`: see `room`.

        By the artifact's word, which does not change: what has served always may come back, or never.
        """
        why = room.why_not(self._memory(), self._promised(version), served=served)
        if why:
            pool, context = self.bounds.pool, version.description.context
            large = pool is not None and pool > context
            remedy = f"Say a smaller --pool: its context is {context} tokens." if large else SMALLER
            raise ModelError(f"{version.release} does not fit: {why}", remedy=remedy)

    async def serve(self, given: Version | None = None) -> None:
        """Load what was current, else previous, else what is given, for which who gives it vouches.

        Raise ModelError where none of them loads. A disk that is full keeps nobody from serving.
        """
        before = self.state
        back = None if self.steered else before.previous
        order = [digest for digest in (before.current, back) if digest is not None]
        there: Mapping[str, Version] = {} if given is None else {given.digest: given}
        whys: list[str] = []
        remedy: str | None = None
        for digest in dict.fromkeys([*order, *there]):
            try:
                if not self.is_ready(digest):
                    version = there.get(digest) or read(before.stage(digest).folder, digest)
                    # A keeper has looked at the machine before he chose.
                    self._require_room(version, served=self.steered or digest in order)
                    await self.open(version, must=False)
            except ModelError as error:
                whys.append(f"{short(digest)}: {error}")
                remedy = error.remedy
                continue
            await self._take_over(digest, "; ".join(whys))
            return
        raise ModelError("; ".join(whys) or "no version was given, and the journal names none", remedy=remedy)

    async def serve_again(self) -> None:
        """Bring back what served; raise RefusedError 503 where it does not load either."""
        try:
            await self.serve()
        except ModelError as error:
            raise RefusedError(NOT_READY, f"nothing serves: {error}", reason="nothing_serves") from error

    async def _take_over(self, digest: str, why: str) -> None:
        """Have the first version that loads serve."""
        if not self.state.stage(digest).gated:
            await self.say("gated", digest, must=False, by=STARTER)
        if digest == self.state.previous:
            await self.say("rolled_back", self.state.current, must=False, why=why, reason="unloadable")
        elif digest != self.state.current:
            await self.say("promoted", digest, must=False)


def _last(words: Sequence[str]) -> list[str]:
    return [line[:LONGEST] for line in list(words)[-WORDS:]]


def conflict(message: str, reason: str, remedy: str) -> RefusedError:
    """Return how a verb is refused that does not fit how things stand; `remedy` says what would."""
    return RefusedError(CONFLICT, f"{message}: {remedy}", reason=reason)


def not_loadable(state: State, what: str, why: str) -> RefusedError:
    """Return how a verb is refused whose version does not load."""
    served = f"; {short(state.current)} serves" if state.current else ""
    return RefusedError(NOT_LOADABLE, f"{short(what)} does not load: {why}{served}", reason="does_not_load")


def short(digest: str) -> str:
    """Return as much of a digest as a person reads; anything else as it is."""
    return digest[: len("sha256:") + 12] if digest.startswith("sha256:") else digest

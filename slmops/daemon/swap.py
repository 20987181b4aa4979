"""Change what serves, while it serves: load, gate, promote, roll back, drop.

It knows labels and in which order things go; what each step takes, `enact` knows; of requests it knows
nothing. Who waits for a version whose worker is away waits at the desk, for as long as that allows.

Laws: every verb is idempotent; verbs that open or close workers go one at a time, and those that only move a
label never wait for them; what fails to load, to prove itself or to fit leaves what served serving again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmops.daemon import prove, room
from slmops.daemon.describe import read
from slmops.daemon.enact import Bounds, Hand, conflict, not_loadable, short
from slmops.daemon.journal import Journal
from slmops.daemon.refusal import RefusedError
from slmops.daemon.resident import House, Resident
from slmops.daemon.versions import ROUTER, Label, Reason, Record, State, Version, why_not_promoted
from slmops.errors import ModelError, SlmopsError

EACH = 1.0
"""Seconds between two looks at whether what should serve does."""
AGAIN = 60.0
"""Seconds between two attempts to load what should serve and does not."""
log = logging.getLogger("slmops.daemon")


class Swap:
    """The verbs; each returns what there is to tell of it, `changed` among that."""

    def __init__(
        self,
        house: House,
        journal: Journal,
        *,
        memory: Callable[[], room.Memory] = room.Memory,
        moved: Callable[[], None] = lambda: None,
        bounds: Bounds | None = None,
        steered: bool = False,
    ) -> None:
        """See `enact.Hand`."""
        self.house = house
        self._hand = Hand(house, journal, memory, moved, bounds or Bounds(), steered=steered)
        self._verb = asyncio.Lock()
        self._alone: tuple[str, asyncio.Task[None]] | None = None
        """The candidate that current left for, and who brings current back in time."""
        self._coming: tuple[str, asyncio.Task[None]] | None = None
        """The version that is being loaded, and how: a load that nobody wants any more is broken off."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._revived = 0.0

    @property
    def state(self) -> State:
        """Return where the versions stand."""
        return self._hand.state

    @property
    def steered(self) -> bool:
        """Say whether a keeper moves the labels, and undoes what others do to them."""
        return self._hand.steered

    async def begin(self, folder: Path | None = None, digest: str = "") -> None:
        """Serve what the journal says was current, else previous, else what is given: who gives it vouches.

        Raise ModelError when none of them loads.
        """
        async with self._verb:
            await self._hand.say("started", must=False, pid=os.getpid())
            given = None
            try:
                given = read(str(folder), digest) if folder is not None else None
            except ModelError:
                if self.state.current is None:
                    raise
            await self._hand.serve(given)

    async def load(self, folder: str, digest: str = "") -> Record:
        """Load a version beside current, or in its place where memory has no room for both.

        Raise RefusedError: 409 where it does not fit even alone, 422 where it does not load.
        """
        async with self._verb:
            version = await self._read(folder, digest)
            digest, other = version.digest, self.state.candidate
            self._require_same_folder(version)
            if self._hand.is_ready(digest):
                return {"plan": "resident", "digest": digest, "folder": version.folder, "changed": False}
            ended = [] if other in (None, digest) else [other]
            for candidate in ended:
                await self._hand.end(candidate)
                await self._return_from(candidate)
            began = time.monotonic()
            plan = await self._bring_in(version)
            ended += [each for each in plan.leave if each != self.state.current]
            if plan.kind == "sequential":
                self._alone = (digest, self._start(self._bring_back(digest)))
            told = {"digest": digest, "release": version.release, "estimate": plan.estimate, "ended": ended}
            return {"plan": plan.kind, **told, "seconds": round(time.monotonic() - began, 3), "changed": True}

    async def gate(self, digest: str, verdict: Record | None = None, speed: float | None = None) -> Record:
        """Take somebody's verdict (outcome, by, message) on a version, or ask it its golden prompts.

        `speed` is the share of the promised tokens per second that it must reach. One that fails is ended.
        """
        said = (verdict or {}).get("outcome", "pass")
        stage, worker = self.state.stage(digest), self.house.resident(digest)
        if stage.gated and said == "pass":
            return {"digest": digest, "outcome": "pass", "by": stage.gated, "changed": False}
        if said == "fail" and not stage.loaded and stage.failure is not None:
            why = stage.failure.get("why")
            return {"digest": digest, "outcome": "fail", "message": why, "changed": False}
        if worker is not None and stage.loaded:
            await self._restarted(worker)
        if worker is None or not self._hand.is_ready(digest):
            raise conflict(f"{short(digest)} is not loaded", "not_loaded", "load it first")
        if said == "fail" and self.state.label(digest) in ("current", "previous"):
            raise conflict(f"{short(digest)} has served", "in_use", "roll it back")
        if verdict is None:
            proof = asdict(await prove.prove(worker, self._hand.bounds.gate, speed))
            return await self._judged(digest, {**proof, "by": ROUTER})
        return await self._judged(digest, {"message": "", "by": "agent", **verdict})

    async def promote(self, digest: str) -> Record:
        """Make a loaded and gated version current; what was current stays as previous, beside it."""
        if self.state.current == digest:
            return {"digest": digest, "label": "current", "changed": False}

        def why_not(state: State) -> str:
            why = why_not_promoted(state, digest)
            if why:
                return f"{why}: load and gate it first"
            return "" if self._hand.is_ready(digest) else "its worker is being started again: ask again"

        await self._hand.say("promoted", digest, unless=why_not)
        self._settle()
        return {"digest": digest, "label": "current", "previous": self.state.previous, "changed": True}

    async def roll_back(self, why: str = "", reason: Reason = "asked") -> Record:
        """Make previous current again, at once where it is resident; what is rolled back is ended."""
        back, bad = self.state.previous, self.state.current
        if back is None or bad is None:
            if self.state.withdrawn is None:
                raise conflict("there is no previous version", "no_previous", "load, gate and promote one")
            return {"digest": bad, "withdrawn": self.state.withdrawn, "changed": False}
        if not self._hand.is_ready(back):
            async with self._verb:
                if not self._hand.is_ready(back):
                    await self._bring_in(await self._read(self.state.stage(back).folder, back))

        def why_not(state: State) -> str:
            still = (state.previous, state.current) == (back, bad) and self._hand.is_ready(back)
            return "" if still else "the labels have moved"

        said = {"why": why, "reason": reason, "evidence": self._hand.evidence(bad)}
        # A full disk keeps nobody on a bad version.
        await self._hand.say("rolled_back", bad, must=False, unless=why_not, **said)
        self._settle()
        return {"digest": back, "withdrawn": bad, "changed": True}

    async def drop(self, digest: str, drain: float | None = None) -> Record:
        """End a version's worker; a previous keeps its label and is loaded again by a rollback.

        One that is being loaded is not waited for.
        """
        if self._coming is not None and self._coming[0] == digest != self.state.current:
            self._coming[1].cancel()
        async with self._verb:
            if self.state.current == digest:
                raise conflict(f"{short(digest)} is current", "in_use", "promote another, or roll back")
            there = self.house.resident(digest) is not None or self.state.stage(digest).loaded
            if there:
                await self._hand.end(digest, drain)
                await self._return_from(digest)
            return {"digest": digest, "resident": False, "changed": there}

    async def deal(self, split: Mapping[Label, float], shadow: Mapping[Label, float]) -> Record:
        """Set shares of the requests that name no version, by label, and the label that is asked beside."""
        changed = False
        for kind, field, wanted in (("split", "split", dict(split)), ("shadowed", "shadow", dict(shadow))):
            said: Record = {field: wanted}
            if wanted != getattr(self.state, field):
                await self._hand.say(kind, **said)
                changed = True
            if wanted != getattr(self.state, field):
                whose = f"{field}: {' or '.join(wanted)}"
                raise conflict(f"{whose} is no label here, or not gated", "not_gated", "load and gate it")
        return {"split": self.state.split, "shadow": self.state.shadow, "changed": changed}

    async def watch(self) -> None:
        """See that what should serve does; for as long as the daemon lives."""
        while True:
            await asyncio.sleep(EACH)
            for digest in list(self.house.versions):
                worker = self.house.resident(digest)
                if worker is not None and worker.state == "broken":
                    await self._mend(self.broke(digest))
            worker = self.house.resident(self.state.current or "")
            if worker is None or worker.state == "broken":
                await self._revive()

    async def broke(self, digest: str) -> None:
        """Note that a version's worker ended too often; where it is current, go back to previous."""
        worker = self.house.resident(digest)
        if worker is None or not self.state.stage(digest).loaded:
            return
        await self._hand.fail(digest, f"its worker keeps ending: {worker.why}")
        if self.state.current == digest:
            if self.state.previous is not None and not self._hand.steered:
                await self.roll_back("its worker keeps ending", "broken")
            return
        async with self._verb:
            await self.house.close(digest, 0)
            await self._return_from(digest)

    async def end(self) -> None:
        """Stop what goes on in the background, for good: the verbs are over."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hand.close()

    async def _revive(self) -> None:
        """Try again to load what should serve and is not there, unless a verb is at it."""
        idle = not self._verb.locked() and self._alone is None and self.state.current is not None
        if idle and time.monotonic() - self._revived > AGAIN:
            self._revived = time.monotonic()
            async with self._verb:
                await self._mend(self._hand.serve_again())

    async def _mend(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody asked for; that it could not be done is for the log."""
        try:
            await work
        except SlmopsError as error:
            log.warning("%s", error)

    def _require_same_folder(self, version: Version) -> None:
        """Raise RefusedError where a version is there by that name, from another folder."""
        there = self.house.versions.get(version.digest)
        if there is not None and os.path.realpath(there.folder) != os.path.realpath(version.folder):
            what = f"{short(version.digest)} is loaded from {there.folder}, and not from {version.folder}"
            raise conflict(what, "other_folder", "give it a name of its own (--digest), or drop the other")

    async def _restarted(self, worker: Resident) -> None:
        """Wait for a worker that ended and is started again by itself, as long as a gate may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._hand.bounds.gate):
                while worker.state == "restarting":  # noqa: ASYNC110 - nothing tells of it but the state itself
                    await asyncio.sleep(0.05)

    async def _read(self, folder: str, digest: str) -> Version:
        try:
            return read(folder, digest)
        except ModelError as error:
            if digest:
                await self._hand.fail(digest, str(error), folder=folder)
            raise not_loadable(self.state, digest or folder, str(error)) from error

    async def _bring_in(self, version: Version) -> room.Plan:
        """Make room for a version and open it; if it cannot be, what served is there again."""
        try:
            plan = await self._hand.make_room(version)
            await self._open(version)
        except BaseException as error:
            served = self.state.current
            if served is not None and self.house.resident(served) is None:
                await self._hand.serve_again()
            if isinstance(error, ModelError):
                raise not_loadable(self.state, version.digest, str(error)) from error
            raise
        return plan

    async def _open(self, version: Version) -> None:
        """Open a version, unless it is dropped meanwhile (RefusedError 409)."""
        opening = asyncio.create_task(self._hand.open(version))
        self._coming = version.digest, opening
        try:
            await asyncio.wait({opening})
        finally:
            self._coming = None
            opening.cancel()
        if opening.cancelled():
            await self._hand.say("dropped", version.digest, must=False)
            raise conflict(f"{short(version.digest)} was dropped while it loaded", "dropped", "load it again")
        opening.result()

    async def _judged(self, digest: str, said: Record) -> Record:
        """Write down what a gate came to, and end what failed it."""
        outcome, why = said["outcome"], said["message"]
        if outcome != "fail":
            await self._hand.say("gated", digest, outcome=outcome, by=said["by"], why=why, evidence=said)
        else:
            async with self._verb:
                if self.state.current == digest:
                    raise conflict(f"{short(digest)} serves by now", "in_use", "roll it back")
                await self._hand.fail(digest, f"it failed its gate: {why}", gate=said)
                await self.house.close(digest, self._hand.bounds.drain)
                await self._return_from(digest)
        return {"digest": digest, **said, "changed": True}

    async def _return_from(self, digest: str) -> None:
        """Bring current back, where it had to leave for a version that is gone now."""
        if self._alone is not None and self._alone[0] == digest:
            self._alone[1].cancel()
            self._alone = None
            await self._hand.serve_again()

    async def _bring_back(self, digest: str) -> None:
        """Wait for a candidate that came in alone to be promoted; if it is not, current comes back."""
        seconds = self._hand.bounds.alone
        await asyncio.sleep(seconds)
        async with self._verb:
            if self._alone is not None and self._alone[0] == digest:
                self._alone = None
                await self._hand.fail(digest, f"nobody promoted it within {seconds:g} s")
                await self.house.close(digest, 0)
                await self._hand.serve_again()

    def _settle(self) -> None:
        """See to what follows a label that moved: nobody waits to bring current back, the rest may leave."""
        if self._alone is not None:
            self._alone[1].cancel()
            self._alone = None
        self._start(self._clear())

    async def _clear(self) -> None:
        """End the workers of versions without a label."""
        async with self._verb:
            for digest in [each for each in self.house.versions if self.state.label(each) is None]:
                with suppress(RefusedError):  # It was promoted meanwhile.
                    await self._hand.end(digest)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

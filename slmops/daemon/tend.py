"""Tend the worker of one version: start it, ask it, see that it lives, start it again within bounds, end it.

It does not know clients, labels or what is asked. What a worker does wrong stays in its process: one that
ends is started again, one that hangs is ended first, one that ends too often is broken and stays down.

Laws: a version has one process at most; whoever asked hears an end, whatever becomes of the process; no
process outlives its `stop`, nor the router (it ends with its socket).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from slmops.daemon.overhear import Ear
from slmops.daemon.protocol import (
    Ask,
    Cancel,
    Done,
    Failed,
    Kind,
    Piece,
    Ping,
    Ready,
    Refused,
    ToRouter,
    ToWorker,
)
from slmops.daemon.refusal import NOT_READY, RefusedError, WorkerLostError
from slmops.daemon.speak import Line
from slmops.daemon.versions import Version
from slmops.errors import ModelError

State = Literal["loading", "ready", "restarting", "broken", "gone"]
LOG_LINES = 200
"""Last lines of a worker that are kept as evidence of how it ended."""
CRASHES, WITHIN = 5, 300.0
"""Ends in so many seconds after which a worker stays down."""
LOAD = 300.0
PING = 5.0
SILENT = 30.0
"""Seconds without an answer to a ping after which a worker hangs."""
log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Plan:
    """How workers are run: what each is told beyond its version."""

    slots: int | None = None
    """Requests computed together; None leaves it to the worker."""
    pool: int | None = None
    """Tokens of context for all of them."""
    adopt: str | None = None
    """Program of an installed llama-server to run as the worker."""
    load: float = LOAD
    """Seconds that one that ended may take to load again."""
    ping: float = PING
    silent: float = SILENT


@dataclass(frozen=True)
class _Asked:
    """Somebody who waits for an answer."""

    heard: asyncio.Queue[Piece | Done | Refused | None]
    """What the worker has said; None when it has ended."""
    over: Callable[[], None]


class Worker:
    """A version's process."""

    def __init__(self, version: Version, plan: Plan, changed: Callable[[], None]) -> None:
        """Prepare; `changed` is called whenever the worker's state or room changes."""
        self.version = version
        self.state: State = "loading"
        self.ready: Ready | None = None
        self.pid: int | None = None
        self.taken = 0
        self.crashes = 0
        self.last_exit: int | None = None
        self.why = ""
        """Of the last failure."""
        self.words: deque[str] = deque(maxlen=LOG_LINES)
        """The last lines it wrote to its standard error."""
        self.held = False
        """No new turns: it is about to be stopped."""
        self._plan = plan
        self._changed = changed
        self._numbers = itertools.count(1)
        self._open: dict[int, _Asked] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._line: Line | None = None
        self._ends: deque[float] = deque(maxlen=CRASHES)
        self._told: asyncio.Future[Ready] | None = None
        self._life: asyncio.Task[None] | None = None

    @property
    def slots(self) -> int:
        """See `desk.Room`."""
        return self.ready.slots if self.ready is not None and self.state == "ready" and not self.held else 0

    @property
    def active(self) -> int:
        """Requests under way."""
        return len(self._open)

    async def start(self) -> Ready:
        """Start the process and wait until the model has spoken; raise ModelError when it does not load."""
        process = await self._spawn()
        try:
            ready = await self._loaded(process)
        except BaseException:
            self._set("gone")
            await self._end(process)
            raise
        self._life = asyncio.ensure_future(self._live(process))
        return ready

    async def ask(
        self, kind: Kind, body: bytes, answer: str, created: int, over: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Piece | Done]:
        """Yield the pieces of an answer; raise RefusedError, or WorkerLostError when the process ends.

        `over` is called when the worker has said all, though not all of it may have been taken yet.
        """
        if self.state != "ready":
            # It ended after the turn was given: nobody is there to be told, or to end this.
            raise WorkerLostError(f"{self.version.release}: the worker is {self.state}: {self.why}")
        number = next(self._numbers)
        heard: asyncio.Queue[Piece | Done | Refused | None] = asyncio.Queue()
        self._open[number] = _Asked(heard, over)
        self._quiet.clear()
        self._say(Ask(id=number, kind=kind, body=body, answer=answer, created=created))
        said: Piece | Done | Refused | None
        try:
            while not isinstance(said := await heard.get(), Done):
                if said is None:
                    raise WorkerLostError(f"{self.version.release}: the worker ended: {self.why}")
                if isinstance(said, Refused):
                    raise RefusedError(said.status, said.message, reason=said.reason, param=said.param)
                yield said
            yield said
        finally:
            if self._close(number) is not None:
                self._say(Cancel(id=number))

    async def stop(self, drain: float) -> None:
        """Give what is under way so many seconds, then end the process for good."""
        self.held = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), drain)
        self._set("gone")
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
        self._lose("it was stopped")

    def abandon(self, why: str) -> None:
        """Refuse all who wait for an answer; the process goes on."""
        for number, asked in self._open.items():
            asked.heard.put_nowait(Refused(id=number, status=NOT_READY, message=why, reason="stopping"))

    async def _live(self, process: asyncio.subprocess.Process) -> None:
        """Be there for the process's whole life, and for those of its successors."""
        while True:
            try:
                await self._watch(process)
            finally:
                await self._end(process)
            self._bury(process.returncode)
            while self.state == "restarting":
                await asyncio.sleep(0.1 * 2 ** len(self._ends))
                try:
                    process = await self._spawn()
                except OSError as error:
                    self._bury(None, f"no process could be started: {error.strerror}")
                    continue
                try:
                    async with asyncio.timeout(self._plan.load):
                        await self._loaded(process)
                except (ModelError, TimeoutError) as error:
                    await self._end(process)
                    self._bury(process.returncode, str(error) or f"it did not load in {self._plan.load:g} s")
                except BaseException:
                    await self._end(process)
                    raise
            if self.state == "broken":
                return

    def _bury(self, code: int | None, why: str = "") -> None:
        """Note an end, and whether there will be another beginning."""
        self.crashes += 1
        self.last_exit, self.pid = code, None
        self.why = why or self.why or _ending(code)
        log.error("the worker of %s ended: %s", self.version.release, self.why)
        now = time.monotonic()
        self._ends.append(now)
        too_often = len(self._ends) == CRASHES and now - self._ends[0] < WITHIN
        self._set("broken" if too_often else "restarting")
        self._lose(self.why)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Return when the process has ended or is to be ended."""
        ending = asyncio.ensure_future(process.wait())
        line = self._line
        self.why = ""
        try:
            while line is not None and not line.closed:
                line.say(Ping())
                either: set[asyncio.Future[Any]] = {ending, line.ended}
                done, _ = await asyncio.wait(either, timeout=self._plan.ping, return_when="FIRST_COMPLETED")
                if done:
                    # A process that closes its socket is about to end; how it ended is worth a moment.
                    await asyncio.wait({ending}, timeout=1.0)
                    return
                hanging = line.hangs(time.monotonic(), self._plan.silent)
                if hanging:
                    self.why = hanging
                    return
        finally:
            ending.cancel()

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Start the process, and listen to it; raise OSError where the system has no room for one more."""
        ours, its = socket.socketpair()
        with its, ExitStack() as undo:
            undo.enter_context(ours)
            words, ear = [*_python(), "-m", "slmops.daemon.work", *self._words(its.fileno())], Ear()
            with ear.mouth() as mouth:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=mouth,
                    env=_environment(),
                    pass_fds=[its.fileno()],
                )
            undo.pop_all()
        self.pid, self._ear = process.pid, ear
        ear.listen(partial(self._note, process.pid))
        self._told = asyncio.get_running_loop().create_future()
        try:
            _, self._line = await asyncio.get_running_loop().create_connection(
                lambda: Line(self._hear), sock=ours
            )
        except BaseException:
            ours.close()
            await self._end(process)
            raise
        return process

    async def _loaded(self, process: asyncio.subprocess.Process) -> Ready:
        """Wait for the first word; raise ModelError when it is not Ready."""
        assert self._told is not None  # noqa: S101 - it was just spawned
        assert self._line is not None  # noqa: S101 - as above
        either: set[asyncio.Future[Any]] = {self._told, self._line.ended}
        await asyncio.wait(either, return_when="FIRST_COMPLETED")
        if not self._told.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
            self.why = _ending(process.returncode)
            self._told.cancel()
            raise ModelError(f"{self.version.release} does not load: {self.why}")
        self.ready = self._told.result()
        if self.crashes:
            log.info("the worker of %s is back", self.version.release)
        self._set("ready")
        return self.ready

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """End a process at once, if it has not ended; wait until it has, and for its last words."""
        if process.returncode is None:
            kill(process.pid)
        await process.wait()
        await self._ear.close()

    def _note(self, pid: int, line: str) -> None:
        """Pass on what the worker writes, and remember the end of it."""
        self.words.append(line)
        log.info("%s", line, extra={"pid": pid})

    def _hear(self, said: ToRouter) -> None:
        if isinstance(said, Piece | Done | Refused):
            asked = self._open.get(said.id) if isinstance(said, Piece) else self._close(said.id)
            if asked is not None:
                asked.heard.put_nowait(said)
                if not isinstance(said, Piece):
                    asked.over()
        elif isinstance(said, Ready) and self._told is not None and not self._told.done():
            self._told.set_result(said)
        elif isinstance(said, Failed) and self._told is not None and not self._told.done():
            self.why = said.message
            self._told.set_exception(ModelError(said.message))

    def _say(self, said: ToWorker) -> None:
        if self._line is not None:
            self._line.say(said)

    def _lose(self, why: str) -> None:
        """Tell all who wait for an answer that there will be none."""
        self.why = why
        for number in list(self._open):
            asked = self._close(number)
            if asked is not None:
                asked.heard.put_nowait(None)

    def _close(self, number: int) -> _Asked | None:
        """Take one off the list of those under way; None: it was not on it any more."""
        asked = self._open.pop(number, None)
        if not self._open:
            self._quiet.set()
        return asked

    def _set(self, state: State) -> None:
        self.state = state
        self._changed()

    def _words(self, descriptor: int) -> list[str]:
        plan = self._plan
        return [
            *("--fd", str(descriptor)),
            *("--artifact", self.version.folder),
            *("--digest", self.version.digest),
            *(("--slots", str(plan.slots)) if plan.slots else ()),
            *(("--pool", str(plan.pool)) if plan.pool else ()),
            *(("--adopt", plan.adopt) if plan.adopt else ()),
        ]


def kill(pid: int) -> None:
    """End a process that is waited for: asyncio's own would look first, and take its end from who waits."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _python() -> Sequence[str]:
    """Return the words that run a Python with what this one has: those it was started with itself.

    A runtime bundle is a folder given to an isolated Python, which must be given it again.
    """
    words = sys.orig_argv
    return words[: words.index("-m")] if "-m" in words else [sys.executable]


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its connection"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with {code}"


def _environment() -> dict[str, str]:
    """Return the environment for a worker: ours, without what systemd says to us alone."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
    return {name: said for name, said in os.environ.items() if not name.startswith(ours)}

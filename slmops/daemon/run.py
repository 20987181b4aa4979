"""Run the daemon: open its doors, load what is to be served, and end when told to.

Law: what was begun before a stop is finished within the deadline; whoever is not served by then is told so.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import shutil
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn

from slmops import __version__
from slmops import digest as digests
from slmops.daemon import admin, describe, guard, listen, records
from slmops.daemon.admit import Admission, Door
from slmops.daemon.desk import MAX_PAUSE, SEATS
from slmops.daemon.enact import Bounds
from slmops.daemon.journal import Journal
from slmops.daemon.listen import Listener
from slmops.daemon.notify import Notifier
from slmops.daemon.passage import Passage
from slmops.daemon.serve import application
from slmops.daemon.service import Service, Settings
from slmops.daemon.swap import Swap
from slmops.daemon.tend import Plan
from slmops.errors import SlmopsError, UsageError
from slmops.profile.sizes import parse_size

DRAIN = 8.0
"""How long requests in flight are given after SIGTERM; the agent, which sends it, waits 10."""
TOOLS = """\
tools beside it (each has a --help of its own):
  slmopsd ctl   ask a running daemon to load, gate, promote, roll back, drop; see how it stands
  slmopsd keys  make, list and revoke keys
  slmopsd unit  print a hardened unit for systemd
"""
log = logging.getLogger("slmops.daemon")


class Server(uvicorn.Server):
    """uvicorn, which writes down its port, and loads the first version while it already answers."""

    def __init__(
        self, options: argparse.Namespace, service: Service, swap: Swap, doors: list[Listener]
    ) -> None:
        self.failure: BaseException | None = None
        self._options, self._service, self._swap, self._doors = options, service, swap, doors
        self._notifier, self._passage = Notifier(), Passage()
        self._tasks: list[asyncio.Task[None]] = []
        door = Door(options.keys, options.cors)
        app = Admission(application(service, admin.routes(service, swap)), door)
        limits, turned = guard.Limits(), guard.Turned()
        service.turned_away = lambda: {**asdict(turned), "wrong_key": door.failures}
        super().__init__(
            guard.config(
                app,
                listen.admin_names(doors),
                limits=limits,
                turned=turned,
                graceful=options.drain + 1,
                passage=self._passage,
            )
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn handles them while it runs, then sends them on to whoever did before: here.
            signal.signal(number, self._stop)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, say where, and begin to load."""
        left = self._passage.take()
        await super().startup(sockets)
        await guard.take_up(left, self)
        self._tell_port()
        for door in self._doors:
            log.info("listening on %s (%s)", door.name, door.door)
        self._run(self._begin())
        self._run(self._service.watch_pressure())
        self._run(self._swap.watch())
        self._run(self._notifier.watch(self._is_well))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was begun, within the deadline; whoever is not served by then is told so."""
        log.info("stopping")
        self._notifier.stopping()
        end = asyncio.get_running_loop().call_later(self._options.drain, self._give_up)
        await guard.accept_no_more(sockets or [])
        await super().shutdown(sockets)
        end.cancel()
        for task in self._tasks:
            task.cancel()
        self._passage.close()
        await self._swap.end()
        await self._service.close()

    async def _begin(self) -> None:
        """Load what is to be served; end the daemon where there is nothing that can be."""
        telling = asyncio.ensure_future(self._notifier.loading("loading"))
        try:
            await self._swap.begin(self._options.artifact, self._options.digest)
        finally:
            telling.cancel()
        # What is there now stays: to look through it for garbage takes longer than to pass on an answer.
        gc.collect()
        gc.freeze()
        self._notifier.ready("serving")

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End with a task that failed: half a daemon would look like a whole one."""
        if not task.cancelled() and task.exception() is not None:
            self.failure, self.should_exit = task.exception(), True

    def _is_well(self) -> bool:
        """Say whether there is nothing that a restart of the whole would mend."""
        worker = self._service.current
        return worker is None or worker.state != "broken"

    def _give_up(self) -> None:
        self._service.desk.close("the daemon is stopping")
        for worker in self._service.house.workers.values():
            worker.abandon("the daemon is stopping")

    def _tell_port(self) -> None:
        port = next((door.port for door in self._doors if door.port is not None), None)
        if self._options.port_file and port is not None:
            fresh = self._options.port_file.with_name(self._options.port_file.name + ".new")
            try:
                fresh.write_text(f"{port}\n", encoding="ascii")
                fresh.replace(self._options.port_file)
            except OSError as error:
                # A full disk keeps nobody from serving.
                log.warning("%s cannot be written: %s", self._options.port_file, error.strerror)

    def _stop(self, _number: int, _frame: object) -> None:
        self.should_exit = True


def main(words: Sequence[str]) -> int:
    """Serve; return the exit code."""
    options = _options(words)
    records.begin(options.log)
    try:
        return _serve(options)
    except SlmopsError as error:
        sys.stderr.write(f"slmopsd: {error}\n" + (f"next: {error.remedy}\n" if error.remedy else ""))
        return 1


def _serve(options: argparse.Namespace) -> int:
    _check(options)
    journal = Journal(options.state)
    if options.artifact is not None and journal.state.current is None:
        # Nobody is told that we listen who could never be answered.
        describe.read(str(options.artifact), options.digest)
    if options.spool is not None:
        _make_room(options.spool)
    service = Service(_settings(options), journal)
    swap = Swap(
        service.house,
        journal,
        memory=service.memory,
        moved=service.moved,
        bounds=Bounds(options.max_load, options.max_gate, options.drain, pool=options.pool),
        steered=options.steered,
    )
    doors = listen.gather(
        options.host, options.port, unix=options.socket, admin=options.admin, keys_file=options.keys
    )
    server = Server(options, service, swap, doors)
    try:
        server.run([door.sock for door in doors])
    finally:
        for door in doors:
            door.close()
        journal.close()
    if server.failure:
        raise server.failure
    log.info("stopped")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise an error for what cannot be meant, before anything is begun."""
    if options.digest:
        digests.parse(options.digest)
    if options.capture and options.spool is None:
        raise UsageError("--capture keeps samples beside the spool: say --spool DIR too")
    if options.adopt and shutil.which(options.adopt) is None:
        raise UsageError(
            f"{options.adopt} is no program", remedy="Say --adopt and the path of a llama-server."
        )
    if options.artifact is None and options.state is None:
        raise UsageError("there is nothing to serve", remedy="Say --artifact FOLDER, or --state DIR.")


def _make_room(spool: Path) -> None:
    """Say at once where telemetry cannot be kept; that keeps nobody from serving."""
    try:
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        log.warning("no telemetry is kept: %s cannot be made: %s", spool, error.strerror)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        plan=Plan(options.slots, options.pool, options.adopt, load=options.max_load),
        seats=options.seats,
        max_pause=options.max_pause,
        drain=options.drain,
        spool=options.spool,
        cache=options.cache,
        capture=options.capture,
        memory_limit=options.memory_limit,
    )


def _options(words: Sequence[str]) -> argparse.Namespace:
    reading = argparse.ArgumentParser(
        prog="slmopsd",
        description="Serve artifacts: an OpenAI-style API on this machine.",
        epilog=TOOLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = reading.add_argument
    say("--version", action="version", version=f"slmopsd {__version__}")
    say("--artifact", type=Path, metavar="FOLDER", help="folder with artifact.json: the first version")
    say("--digest", default="", help="digest of the artifact; default: of its artifact.json")
    say(
        "--state",
        type=Path,
        metavar="DIR",
        help="where the versions' journal is kept; what it names current is served",
    )
    say("--host", default="127.0.0.1", help="address to listen on; another than loopback demands --keys")
    say("--port", type=int, default=11435, help="0 for any free one (default: %(default)s)")
    say("--port-file", type=Path, metavar="FILE", help="where to write the port once it listens")
    say("--socket", type=Path, metavar="PATH", help="a Unix socket to listen on besides")
    say("--admin", type=Path, metavar="PATH", help="the Unix socket for `ctl`; its owner alone may use it")
    say(
        "--steered",
        action="store_true",
        help="labels move by a keeper's word alone: a version that keeps ending is not rolled back",
    )
    say("--keys", type=Path, metavar="FILE", help="who may ask (`keys create` makes it)")
    say(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of ORIGIN ask; say it again for more",
    )
    say("--slots", type=_above_zero, metavar="N", help="requests computed together (default: the worker's)")
    say(
        "--pool",
        type=_above_zero,
        metavar="TOKENS",
        help="context for all of them together (default: the artifact's)",
    )
    say("--seats", type=int, default=SEATS, metavar="N", help="requests that may wait (default: %(default)s)")
    say(
        "--max-pause",
        type=float,
        default=MAX_PAUSE,
        metavar="S",
        help="seconds that requests wait for a version (default: %(default)s)",
    )
    say(
        "--max-load",
        type=float,
        default=Bounds.load,
        metavar="S",
        help="seconds that a version may take to load (default: %(default)s)",
    )
    say(
        "--max-gate",
        type=float,
        default=Bounds.gate,
        metavar="S",
        help="seconds that a version may take for its golden prompts (default: %(default)s)",
    )
    say(
        "--drain",
        type=float,
        default=DRAIN,
        metavar="S",
        help="seconds for what is under way at a stop (default: %(default)s)",
    )
    say(
        "--cache",
        type=_bytes,
        default=0,
        metavar="SIZE",
        help="answers kept to be given again, as 16MiB (default: none)",
    )
    say("--spool", type=Path, metavar="DIR", help="folder for telemetry events")
    say(
        "--capture",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="share of prompts and answers kept, redacted, beside the spool (default: none)",
    )
    say(
        "--memory-limit",
        type=_bytes,
        metavar="SIZE",
        help="memory for all versions together (default: the machine's)",
    )
    say("--adopt", metavar="PROGRAM", help="an installed llama-server to run as the worker")
    say(
        "--log",
        choices=("text", "json"),
        default="text",
        help="how the log is written (default: %(default)s)",
    )
    return reading.parse_args(words)


def _above_zero(said: str) -> int:
    number = int(said)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def _share(said: str) -> float:
    number = float(said.removesuffix("%")) / (100 if said.endswith("%") else 1)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("expected 0 to 1, or 0% to 100%")
    return number


def _bytes(said: str) -> int:
    try:
        return parse_size(said)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

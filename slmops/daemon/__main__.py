"""`python -m slmops.daemon`: serve one artifact folder until told to stop.

Exit codes: 0 after a stop that was asked for (SIGTERM, SIGINT), 1 when the folder cannot be served;
then one line on stderr says why.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from slmops.artifact.description import Description
from slmops.daemon.load import describe, load
from slmops.daemon.serve import Service, application
from slmops.errors import SlmopsError, UsageError

DRAIN_SECONDS = 8
"""How long requests in flight are given after SIGTERM; the agent, which sends it, waits 10."""
log = logging.getLogger("slmops.daemon")


class Server(uvicorn.Server):
    """uvicorn, which writes down its port, and loads the model while it already answers."""

    def __init__(self, service: Service, folder: Path, port_file: Path | None) -> None:
        super().__init__(
            uvicorn.Config(
                application(service),
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_SECONDS + 1,
            )
        )
        self.failure: BaseException | None = None
        self._service = service
        self._folder = folder
        self._port_file = port_file
        self._given_up = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn handles them while it runs, then sends them on to whoever did before: here.
            signal.signal(number, self._stop)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, say where, and begin to load."""
        await super().startup(sockets)
        self._begin_loading()
        port = self.servers[0].sockets[0].getsockname()[1]
        log.info("%s on port %d", self._service.description.reference, port)
        if self._port_file:
            fresh = self._port_file.with_name(self._port_file.name + ".new")
            fresh.write_text(f"{port}\n", encoding="ascii")
            fresh.replace(self._port_file)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was begun, within the deadline; whoever is not served by then is told so."""
        log.info("stopping")
        self._given_up.set()
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._service.desk.stop)
        await super().shutdown(sockets)

    def _begin_loading(self) -> None:
        service, folder = self._service, self._folder
        self._loading = asyncio.ensure_future(
            service.open(lambda: load(folder, service.description, self._given_up.is_set))
        )
        self._loading.add_done_callback(self._loaded)

    def _loaded(self, loading: asyncio.Future[None]) -> None:
        """Stop when the model did not load; what stopped it matters only if nobody asked to stop."""
        if not loading.cancelled() and not self.should_exit:
            self.failure = loading.exception()
            self.should_exit = self.failure is not None

    def _stop(self, _number: int, _frame: object) -> None:
        self.should_exit = True


def main() -> int:
    """Serve; return the exit code."""
    options = _options()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return _serve(options, describe(options.artifact))
    except (SlmopsError, OSError) as error:
        sys.stderr.write(f"slmops.daemon: {error}\n")
        return 1


def _serve(options: argparse.Namespace, description: Description) -> int:
    service = Service(description, options.digest, options.spool)
    with _listener(options.host, options.port) as listener:
        server = Server(service, options.artifact, options.port_file)
        server.run([listener])
    service.close()
    if server.failure:
        raise server.failure
    log.info("stopped")
    return 0


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def _options() -> argparse.Namespace:
    reading = argparse.ArgumentParser(prog="python -m slmops.daemon", description="Serve one artifact.")
    reading.add_argument("--artifact", type=Path, required=True, help="folder with artifact.json")
    reading.add_argument("--host", default="127.0.0.1")
    reading.add_argument("--port", type=int, default=11435, help="0 for any free port")
    reading.add_argument("--port-file", type=Path, help="where to write the port once it listens")
    reading.add_argument("--spool", type=Path, help="folder for telemetry events")
    reading.add_argument("--digest", default="", help="digest of the artifact, as told to clients")
    return reading.parse_args()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # C code that loads or computes cannot be interrupted, and would be waited for by sys.exit.
    os._exit(code)

"""Guard connections: against those who send slowly, take nothing, or are too many.

An HTTP protocol of uvicorn's that keeps deadlines, and the settings it is run with. It knows sockets and
seconds, and no request's meaning. Nothing here runs when an event is sent and its reader keeps up.

Laws: from its first byte a request is whole within `request` seconds, and within `rest` of the end of its
server, or is answered 408; who takes nothing of his answer for `reader` seconds is cut off; one connection
more than `connections` is answered 503, those through the admin socket never; through that one come the owner
and root alone. A server that ends leaves each connection, as soon as nothing is under way there, to the one
that follows; where none does, its last answer says so, and whoever is about to ask is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from slmops.daemon import head, listen
from slmops.daemon.passage import Passage
from slmops.daemon.refusal import BAD_REQUEST, LATE, NOT_READY, error_body

FAREWELL = 2.0
"""Seconds in which who is turned away may read why."""
RETRY_SECONDS = 1
CLOSE = (b"connection", b"close")
PHRASES = {BAD_REQUEST: "Bad Request", LATE: "Request Timeout", NOT_READY: "Service Unavailable"}
log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, and how many."""

    request: float = 30.0
    """From the first byte of a request, or from its connection, to its last byte."""
    reader: float = 60.0
    """Within which a reader must take something of what waits for him."""
    idle: float = 75.0
    """Between an answer and the next request of its connection."""
    rest: float = 2.0
    """In which a server that ends still hears the rest of a request: whoever follows waits for its end."""
    last_call: float = 0.5
    """In which a server that ends, and that nobody follows, still hears a request over an idle connection."""
    connections: int = 512


@dataclass
class Turned:
    """How many connections were turned away, ever."""

    late: int = 0
    stuck: int = 0
    busy: int = 0
    strangers: int = 0


def config(
    app: ASGIApp, admin: frozenset[str], *, limits: Limits, turned: Turned, graceful: float, passage: Passage
) -> uvicorn.Config:
    """Return how uvicorn serves `app`; `admin` are the names of the admin sockets, `graceful` is in seconds.

    A request's scope has `state["via"]`: "tcp", "unix" or "admin"; and `state["keeper"]`: whether who asks is
    who started this process.
    """
    # h11 and not httptools: it costs 3 us more an event, and a device need not carry a compiled parser.
    return uvicorn.Config(
        app,
        http=_guarding(admin, limits, turned, passage),
        ws="none",
        loop="asyncio",
        lifespan="off",
        h11_max_incomplete_event_size=head.LONGEST,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=listen.BACKLOG,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type] # call_later takes fractions as well
        timeout_graceful_shutdown=graceful,  # type: ignore[arg-type] # and so does wait_for
    )


async def take_up(lines: Iterable[socket.socket], server: uvicorn.Server) -> None:
    """Go on with connections that the server before left."""

    def made() -> asyncio.Protocol:
        config = server.config
        protocol: _Guarded = config.http_protocol_class(  # type: ignore[assignment, call-arg]
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )
        protocol.lay_idle = True
        return protocol

    for line in lines:
        with suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(made, line)


async def accept_no_more(doors: Iterable[socket.socket]) -> None:
    """Leave who connects from now on at the doors, and let those in who were accepted.

    A connection is a task of the loop's before it is the server's: one that the end of the server finds in
    between would be lost.
    """
    loop = asyncio.get_running_loop()
    for door in doors:
        loop.remove_reader(door)
    for _ in ("its transport is made", "its protocol is"):
        await asyncio.sleep(0)


def _guarding(
    admin: frozenset[str], limits: Limits, turned: Turned, passage: Passage
) -> type[asyncio.Protocol]:
    class Guarded(_Guarded):
        _admin, _limits, _turned, _passage = admin, limits, turned, passage

    return Guarded


class _Guarded(H11Protocol):
    """One connection."""

    _admin: frozenset[str]
    _limits: Limits
    _turned: Turned
    _passage: Passage
    lay_idle = False
    """It was a server's before this one."""
    _ending = False
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None
    _dismissed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        via = self._via(sock)
        keeper = via == "admin" and listen.is_parent(sock)
        self.app_state = {**self.app_state, "via": via, "keeper": keeper}
        # So that it is known as soon as something waits for its reader.
        transport.set_write_buffer_limits(high=0)
        if via == "admin" and not listen.is_owner(sock):
            self._turned.strangers += 1
            log.warning("another user came to the admin socket")
            transport.abort()
        elif via != "admin" and len(self.connections) > self._limits.connections:
            self._turned.busy += 1
            self._dismiss(NOT_READY, "too many connections", "too_many_connections")
        elif self.lay_idle:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self._await_request()

    def shutdown(self) -> None:
        """End here, as soon as nothing is under way; uvicorn calls it."""
        self._ending = True
        self._announce_end()
        if self._reading is not None:
            self._request_is_whole()
            if self._is_half_heard:
                self._await_request()
        self._move_on()

    def data_received(self, data: bytes) -> None:
        if self._dismissed:
            return
        super().data_received(data)
        self._announce_end()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete:
            self._await_request()
        else:
            self._request_is_whole()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words for it
        """Refuse what the parser made nothing of."""
        message = f"this is no HTTP/1.1 request, or its head has more than {head.LONGEST} bytes"
        self._dismiss(BAD_REQUEST, message, "invalid_http")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_half_heard and not self.transport.is_closing():
            # The next request came before this answer was over, and not all of it.
            self._await_request()
        self._move_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_whole()
        self._reader_took_all()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._reader_took_all()
        super().resume_writing()
        # Not from within the transport's own writing, which does not expect to be closed there.
        self.loop.call_soon(self._move_on)

    @property
    def _is_idle(self) -> bool:
        """Say whether nothing of a request is here, and nothing of an answer."""
        states = {self.conn.our_state, self.conn.their_state}
        waits = self.conn.trailing_data[0] or self.transport.get_write_buffer_size()
        return states == {h11.IDLE} and not waits and not self._dismissed

    @property
    def _is_half_heard(self) -> bool:
        """Say whether something of a request is here, and not all of it."""
        theirs = self.conn.their_state
        return theirs is h11.SEND_BODY or (theirs is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _announce_end(self) -> None:
        """Have an answer say that the connection ends with it, where no server goes on with that."""
        cycle: RequestResponseCycle | None = self.cycle
        last = self._ending and not self._passage
        if last and cycle is not None and CLOSE not in cycle.default_headers:
            cycle.default_headers = [*cycle.default_headers, CLOSE]

    def _move_on(self) -> None:
        """Leave the connection to the next server once it lies idle in one that ends; else end it soon."""
        if not self._ending or self.transport.is_closing() or not self._is_idle:
            return
        if self._passage.leave(self.transport.get_extra_info("socket").fileno()):
            self.transport.close()
        else:
            self.loop.call_later(self._limits.last_call, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._is_idle:
            self.transport.close()

    def _via(self, sock: socket.socket) -> str:
        if sock.family != socket.AF_UNIX:
            return "tcp"
        return "admin" if os.fsdecode(sock.getsockname()) in self._admin else "unix"

    def _await_request(self) -> None:
        if self._reading is None:
            within = self._limits.rest if self._ending else self._limits.request
            self._reading = self.loop.call_later(within, self._late, within)

    def _request_is_whole(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _late(self, within: float) -> None:
        if self.transport.is_closing():
            return
        self._turned.late += 1
        self._dismiss(LATE, f"the request was not whole within {within:g} seconds", "request_timeout")

    def _await_reader(self) -> None:
        waits = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._limits.reader, self._look_at_reader, waits)

    def _reader_took_all(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _look_at_reader(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._await_reader()
            return
        self._turned.stuck += 1
        self.transport.abort()

    def _dismiss(self, status: int, message: str, reason: str) -> None:
        """Say why, and leave; who still sends may read it first, instead of finding the line cut."""
        self._dismissed = True
        self._request_is_whole()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete):
            # It has its answer, or a part of it, and would take what is said now for more of that.
            self.transport.abort()
            return
        if cycle is not None and not cycle.response_complete:
            # To the application the client has left.
            cycle.disconnected = True
            cycle.message_event.set()
        body = msgspec.json.encode(error_body(status, message, reason))
        fields: dict[str, Any] = {
            "content-type": "application/json",
            "content-length": len(body),
            "connection": "close",
            **({"retry-after": RETRY_SECONDS} if status == NOT_READY else {}),
        }
        said = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {status} {PHRASES[status]}\r\n{said}\r\n".encode() + body)
        self.transport.write_eof()
        self.loop.call_later(FAREWELL, self.transport.abort)

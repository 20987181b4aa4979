"""Admit a request or refuse it: by its key, by what it asks for, and by where it comes from.

It knows a request's headers and path, and no model; what a key is, `slmops.keys` knows.

Laws: without a file of keys only this machine is served, its model and its metrics; once keys were seen,
nothing but a key opens more than that the daemon lives and is ready, and a file that is broken or gone opens
to nobody; no web page learns more than that through its visitor's browser unless its origin was named; a key
is never logged, its name is.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slmops import keep_keys, keys
from slmops.daemon import head
from slmops.daemon.refusal import (
    BAD_REQUEST,
    FORBIDDEN,
    NOT_READY,
    TOO_MANY,
    UNKNOWN,
    RefusedError,
    error_body,
)
from slmops.errors import DocumentError, UsageError

KEY_NEEDED, KEYS_BROKEN = "key_needed", "keys_broken"
ANYONE = "anyone"
"""The role of who has no key and needs none: a process of this machine, where there are no keys."""
KEYLESS = "keyless"
"""The role of who has no key where one is needed."""
GRANTS = {**keys.GRANTS, ANYONE: frozenset({"infer", "metrics"}), KEYLESS: frozenset()}
OPEN = frozenset({"/healthz"})
"""Paths that tell so little that nobody is asked who he is."""
BARE = frozenset({"/readyz"})
"""Paths that tell less to who may not ask the model: a load balancer has no key."""
STEERED = frozenset({"/admin/v1/rollback", "/admin/v1/traffic"})
"""What an operator may change: go back to what was proved, and share requests out. The rest is an admin's."""
ATTEMPTS, WINDOW = 10, 60.0
"""Wrong keys that one peer may say within a window of seconds; who says more waits until it is over."""
PEERS = 1024
"""Peers whose attempts are remembered; beyond, the one that has been quiet for longest is forgotten."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*]+")
_HEADERS = "authorization, *"
"""Clients in browsers send headers of their own, and the star does not stand for the first."""
log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of a key and its role, or nobody in particular, from this machine."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Say whether the caller may do what takes this role."""
        return role in GRANTS[self.role]


NOBODY = Caller("", ANYONE)
STRANGER = Caller("", KEYLESS)
KEEPER = Caller("admin socket", "admin")
"""Who comes through the admin socket: it is its owner's alone."""


def needed(method: str, path: str) -> str | None:
    """Return the role that a request takes; None where anyone is answered."""
    if path in OPEN:
        return None
    if path == "/metrics":
        return "metrics"
    if path == "/admin" or path.startswith("/admin/"):
        return "operator" if method in {"GET", "HEAD"} or path in STEERED else "admin"
    return "infer"


class Door:
    """Knows the keys, the origins that may come in by a browser, and who has said wrong keys."""

    def __init__(self, keys_file: Path | None = None, cors: Iterable[str] = ()) -> None:
        """Read the keys; raise UsageError where an origin is none."""
        self.origins = frozenset(cors)
        wrong = [origin for origin in self.origins if not _ORIGIN.fullmatch(origin)]
        if wrong:
            raise UsageError(f"{wrong[0]!r} is no origin; expected something like https://app.example")
        self.failures = 0
        """Requests with a wrong key, ever."""
        self._file = keys_file
        self._stamp: object = None
        self._keys: keys.Keys | None = None
        """None: no keys are asked for."""
        self._broken = False
        """Which keys there are cannot be said now."""
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._refresh()

    def who(self, headers: Mapping[str, str], *, local: bool, peer: str = "") -> Caller:
        """Return who asks; raise RefusedError 401, 403 or 429.

        `headers` are named in small letters; `local`: by a Unix socket or from a loopback address; `peer`:
        what is told apart when wrong keys are counted.
        """
        self.from_browser(headers)
        self._refresh()
        if self._keys is None:
            if not local:
                raise RefusedError(UNKNOWN, "from elsewhere a key is needed", reason=KEY_NEEDED)
            _known_host(headers.get("host", ""))
            return NOBODY
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if not said or scheme.lower() != "bearer":
            message = "a key is needed: Authorization: Bearer slm_..."
            raise RefusedError(UNKNOWN, message, reason=KEY_NEEDED)
        if self._broken:
            # No fault of who asks, and no wrong key: it is not known which ones are right.
            message = "the daemon's file of keys is broken; its log says how"
            raise RefusedError(NOT_READY, message, reason=KEYS_BROKEN)
        key = keys.find(self._keys, said.strip(), time.time())
        if key is None:
            raise self._wrong(peer)
        return Caller(key.name, key.role)

    def allow(self, caller: Caller, role: str) -> None:
        """Raise RefusedError 403 unless the caller may do what takes this role."""
        if not caller.may(role):
            whose = f"the key {caller.name!r} has the role {caller.role}"
            if not caller.name:
                whose = "where there are no keys this is asked through the admin socket (--admin)"
            raise RefusedError(FORBIDDEN, f"{whose}; this takes {role}", reason="role_too_small")

    def from_browser(self, headers: Mapping[str, str]) -> None:
        """Raise RefusedError 403 for a request of a web page whose origin was not named."""
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "none") in {"cross-site", "same-site"}
        if (origin is not None or foreign) and origin not in self.origins:
            message = f"web pages of {origin or 'another site'} may not ask; --cors names those that may"
            raise RefusedError(FORBIDDEN, message, reason="origin_refused")

    def _wrong(self, peer: str) -> RefusedError:
        """Count a wrong key; return how it is refused."""
        self.failures += 1
        now = time.monotonic()
        count, until = self._attempts.pop(peer, (0, 0.0))
        count, until = (1, now + WINDOW) if now >= until else (count + 1, until)
        self._attempts[peer] = count, until
        if len(self._attempts) > PEERS:
            self._attempts.popitem(last=False)
        if count <= ATTEMPTS:
            log.warning("a wrong key from %s", peer or "an unknown peer")
            message = "this key is unknown, expired or revoked"
            return RefusedError(UNKNOWN, message, reason="key_refused")
        wait = int(until - now) + 1
        return RefusedError(TOO_MANY, "too many wrong keys", reason="keys_refused", retry_after=wait)

    def _refresh(self) -> None:
        """Read the keys again if their file is another one than it was."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
            stamp: object = (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
        except OSError as error:
            stamp = error.errno
        if stamp != self._stamp:
            self._stamp = stamp
            self._read(self._file)

    def _read(self, file: Path) -> None:
        try:
            self._keys, self._broken = keep_keys.read(file), False
        except FileNotFoundError:
            if self._keys is not None:
                log.error("%s is gone: nobody is let in", file)  # noqa: TRY400 - that it is gone says all
                self._keys, self._broken = (), True
        except (DocumentError, OSError) as error:
            log.error("%s: %s: nobody is let in", file, error)  # noqa: TRY400 - no fault of the program
            self._keys, self._broken = (), True


class Admission:
    """An application behind the door: what is not admitted does not reach it.

    It finds `state["caller"]` in the scope: who asks (`NOBODY` where nobody was asked).
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a request, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope = head.plain(scope)
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin in self._door.origins:
                send = _telling(origin, send)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                self._door.from_browser(headers)
                await _preflight(send)
                return
            scope.setdefault("state", {})["caller"] = self._admitted(scope, headers)
        except RefusedError as refusal:
            await _refuse(refusal, send)
            return
        await self._app(scope, receive, send)

    def _admitted(self, scope: Scope, headers: Headers) -> Caller:
        role = needed(scope["method"], scope["path"])
        if role is None:
            return NOBODY
        via, peer = scope.get("state", {}).get("via", ""), (scope.get("client") or ("",))[0]
        if via == "admin":
            self._door.from_browser(headers)
            return KEEPER
        try:
            caller = self._door.who(headers, local=via == "unix" or _is_loopback(peer), peer=peer or via)
        except RefusedError as refusal:
            if scope["path"] in BARE and refusal.reason in {KEY_NEEDED, KEYS_BROKEN}:
                return STRANGER
            raise
        if scope["path"] not in BARE:
            self._door.allow(caller, role)
        return caller


def _known_host(said: str) -> None:
    """Raise RefusedError unless the Host header names this machine by a name that no one else can own.

    A page of evil.example whose name is made to point at 127.0.0.1 still says its own name here.
    """
    name = re.sub(r":[0-9]*$", "", said).strip("[]").lower().rstrip(".")
    if name not in {"", "localhost"} and not name.endswith(".localhost") and not _is_loopback(name):
        raise RefusedError(FORBIDDEN, f"the host {said[:80]!r} is not this machine", reason="host_refused")


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _telling(origin: str, send: Send) -> Send:
    """Return a `send` that tells the browser that this origin's page may read the answer."""

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers["access-control-allow-origin"] = origin
            headers["vary"] = "origin"
            message = {**message, "headers": headers.raw}
        await send(message)

    return tell


async def _preflight(send: Send) -> None:
    fields = {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": _HEADERS,
        "access-control-max-age": "600",
    }
    await _respond(send, 204, fields, b"")


async def _refuse(refusal: RefusedError, send: Send) -> None:
    fields = {"content-type": "application/json"}
    if refusal.status == UNKNOWN:
        fields["www-authenticate"] = 'Bearer realm="slmops"'
    if refusal.status == BAD_REQUEST:
        # Where one head is wrong nothing tells for sure where the next begins.
        fields["connection"] = "close"
    if refusal.retry_after is not None:
        fields["retry-after"] = str(refusal.retry_after)
    said = error_body(refusal.status, str(refusal), refusal.reason)
    await _respond(send, refusal.status, fields, msgspec.json.encode(said))


async def _respond(send: Send, status: int, fields: dict[str, str], body: bytes) -> None:
    fields = {**fields, "content-length": str(len(body))} if body else fields
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})

"""The admin API: the verbs of `swap` over HTTP, how the daemon stands, and how requests are shared out.

It reads bodies and writes answers; who may ask is seen to before (`admit`), what happens is `swap`'s.

Laws: what is so already is answered 200 with `changed` false; a refusal has OpenAI's shape and says what
would help: 404 no such version, 409 it does not fit how things stand, 422 it does not load, 503 not now.
Where a keeper steers the versions nobody else changes them, who would only see it undone.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slmops import digest as digests
from slmops.daemon import api, traffic
from slmops.daemon.enact import conflict
from slmops.daemon.refusal import BAD_REQUEST, NOT_FOUND, NOT_READY, RefusedError
from slmops.daemon.service import Service
from slmops.daemon.swap import Swap
from slmops.daemon.traffic import Comparison
from slmops.daemon.versions import Record
from slmops.daemon.visit import read_body
from slmops.daemon.weigh import resident_bytes
from slmops.errors import SlmopsError

ROOT = "/admin/v1"
SHOWN = 8
"""Versions that are told of though they are neither labelled nor resident: each brings its last words."""
_Share = Annotated[float, Meta(gt=0)]
_Seconds = Annotated[float, Meta(ge=0, le=3600)]


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What all bodies have in common: a field that is not known is refused."""


class Load(Body, frozen=True, kw_only=True):
    """Load the artifact in a folder beside current; without room for both, in its place."""

    folder: str
    digest: str = ""


class Verdict(Body, frozen=True, kw_only=True):
    """What somebody has come to who has examined a version."""

    outcome: Literal["pass", "fail", "inconclusive"]
    by: str = "agent"
    message: str = ""


class Gate(Body, frozen=True, kw_only=True):
    """Ask a version its golden prompts, or take a verdict; one that fails is ended."""

    digest: str
    verdict: Verdict | None = None
    speed: _Share | None = None
    """Share of the promised tokens per second that it must reach."""


class Promote(Body, frozen=True, kw_only=True):
    """Make a loaded and gated version current."""

    digest: str


class RollBack(Body, frozen=True, kw_only=True):
    """Make previous current again."""

    why: str = ""


class Drop(Body, frozen=True, kw_only=True):
    """End a version's worker; current is refused."""

    digest: str
    drain: _Seconds | None = None


class Drain(Body, frozen=True, kw_only=True):
    """Refuse new requests and wait for those under way, before the daemon is stopped; or take that back."""

    seconds: _Seconds | None = None
    undo: bool = False


@dataclass(frozen=True)
class Office:
    """The handlers."""

    service: Service
    swap: Swap

    def require_keeper(self, request: Request) -> None:
        """Raise RefusedError (409) for who is not the keeper that steers the versions, if one does."""
        if self.swap.steered and not request.scope["state"].get("keeper"):
            message = "this device's agent decides which versions it has, and would undo this"
            remedy = "ask it by `slmops rollback` or `slmops deploy`, as its operator"
            raise conflict(message, "steered", remedy)

    async def status(self, _body: Body) -> Record:
        """Tell how the daemon stands: labels, versions, requests, memory."""
        service, state = self.service, self.swap.state
        memory, current = service.memory(), service.current
        return {
            "release": current.version.release if current is not None else None,
            "labels": state.labels,
            "withdrawn": state.withdrawn,
            "versions": self._versions(),
            "paused": current is None or current.state != "ready",
            "draining": service.desk.is_closed,
            "waiting": service.desk.waiting,
            "active": self._active,
            "traffic": service.traffic.said(),
            "memory": {
                "limit": memory.limit,
                "used": memory.used,
                "available": memory.available,
                "free": memory.free,
            },
            "pid": os.getpid(),
        }

    async def load(self, body: Load) -> Record:
        """See `Load`."""
        if body.digest:
            _require_digest(body.digest)
        return await self.swap.load(body.folder, body.digest)

    async def gate(self, body: Gate) -> Record:
        """See `Gate`."""
        verdict = None if body.verdict is None else msgspec.to_builtins(body.verdict)
        digest = self._next(body.digest)
        told = await self.swap.gate(digest, verdict, body.speed)
        return {**told, "label": self.swap.state.label(digest)}

    async def promote(self, body: Promote) -> Record:
        """See `Promote`."""
        return await self.swap.promote(self._next(body.digest))

    async def roll_back(self, body: RollBack) -> Record:
        """See `RollBack`."""
        return await self.swap.roll_back(body.why)

    async def drop(self, body: Drop) -> Record:
        """See `Drop`."""
        return await self.swap.drop(self._meant(body.digest), body.drain)

    async def drain(self, body: Drain) -> Record:
        """See `Drain`."""
        seconds = self.service.settings.drain if body.seconds is None else body.seconds
        desk = self.service.desk
        if body.undo:
            desk.open()
            return {"draining": False, "active": self._active}
        desk.close("the daemon is being drained")
        end = time.monotonic() + seconds
        while self._active and desk.is_closed and time.monotonic() < end:  # noqa: ASYNC110 - any of many workers
            await asyncio.sleep(0.01)
        return {"draining": desk.is_closed, "drained": self._active == 0, "active": self._active}

    async def deal(self, said: Any) -> Record:
        """Share out the requests that name no version: {split?: {label: weight}, shadow?: {label, share}}."""
        wanted = traffic.read(said)
        split = {} if set(wanted.split) == {"current"} else dict(wanted.split)
        shadow = {} if wanted.shadow is None else {wanted.shadow.label: wanted.shadow.share}
        told = await self.swap.deal(split, shadow)  # type: ignore[arg-type]  # traffic has seen to the labels
        if told["changed"]:
            self.service.comparison = self._comparison([*split, *shadow])
        return {**self.service.traffic.said(), "changed": told["changed"]}

    async def report(self, _body: Body) -> Record:
        """Tell how requests are shared out, and how the two versions compare."""
        comparison, known = self.service.comparison, self.swap.state.stage
        report = comparison.report() if comparison is not None else None
        for side in (report["base"], report["other"]) if report else ():
            side["release"] = known(side["digest"]).release
        return {**self.service.traffic.said(), "report": report}

    @property
    def _active(self) -> int:
        return sum(worker.active for worker in self.service.house.workers.values())

    def _next(self, asked: str) -> str:
        """Return what is meant; where what came last was promoted already, that was the candidate."""
        state = self.swap.state
        last = state.previous is not None and state.current == next(reversed(state.known), None)
        done = state.candidate is None and last
        return state.current if asked == "candidate" and done and state.current else self._meant(asked)

    def _meant(self, asked: str) -> str:
        """Return the digest that a label, a digest or its beginning names; raise RefusedError (404)."""
        found = self.swap.state.find(asked)
        if found is None:
            known = ", ".join(self.swap.state.labels) or "none"
            raise RefusedError(
                NOT_FOUND,
                f"no version {asked[:80]!r} is known; say a digest, 12 digits of one, or a label ({known})",
                reason="version_not_found",
                param="digest",
            )
        return found

    def _comparison(self, labels: list[str]) -> Comparison | None:
        """Return a fresh comparison of current with the first other version that gets requests."""
        state = self.swap.state
        other = next((state.find(label) for label in labels if label != "current"), None)
        return Comparison(state.current, other) if state.current and other else None

    def _versions(self) -> list[Record]:
        """Return what there is to say of versions: those with a label, the resident, the latest others."""
        state, there = self.swap.state, self.service.house.versions
        rest = [digest for digest in reversed(state.known) if digest not in (*state.labels.values(), *there)]
        return [
            self._version(each) for each in dict.fromkeys((*state.labels.values(), *there, *rest[:SHOWN]))
        ]

    def _version(self, digest: str) -> Record:
        stage, worker = self.swap.state.stage(digest), self.service.house.resident(digest)
        now, peak = resident_bytes(worker.pid) if worker is not None else (0, 0)
        return {
            "digest": digest,
            "release": stage.release,
            "folder": stage.folder,
            "label": self.swap.state.label(digest),
            "state": worker.state if worker is not None else "unloaded",
            "resident": worker is not None,
            "pid": worker.pid if worker is not None else None,
            "rss": now,
            "peak": max(peak, stage.memory),
            "crashes": worker.crashes if worker is not None else 0,
            "last_exit": worker.last_exit if worker is not None else None,
            "why": worker.why if worker is not None else "",
            "ready_seconds": worker.ready.seconds if worker is not None and worker.ready else None,
            "gated": stage.gated or None,
            "failure": stage.failure,
        }


B = TypeVar("B", bound=Body)


def routes(service: Service, swap: Swap) -> list[Route]:
    """Return the routes, for the application."""
    office = Office(service, swap)
    post, steering = partial(Route, methods=["POST"]), partial(_asked, before=office.require_keeper)
    return [
        Route(f"{ROOT}/status", _asked(office.status, Body)),
        post(f"{ROOT}/load", steering(office.load, Load)),
        post(f"{ROOT}/gate", steering(office.gate, Gate)),
        post(f"{ROOT}/promote", steering(office.promote, Promote)),
        post(f"{ROOT}/rollback", steering(office.roll_back, RollBack)),
        post(f"{ROOT}/drop", steering(office.drop, Drop)),
        post(f"{ROOT}/drain", _asked(office.drain, Drain)),
        Route(f"{ROOT}/traffic", _asked(office.report, Body)),
        post(f"{ROOT}/traffic", _asked(office.deal, dict)),
    ]


def _require_digest(said: str) -> None:
    """Raise RefusedError (400) for a name that no version can have."""
    try:
        digests.parse(said)
    except SlmopsError as error:
        raise RefusedError(BAD_REQUEST, str(error), reason="not_a_digest", param="digest") from error


def _asked(
    verb: Callable[[Any], Awaitable[Record]],
    kind: type[Any],
    before: Callable[[Request], None] = lambda _request: None,
) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler that reads a body of that kind, does the verb and tells what came of it.

    A verb that was begun is done to its end, whether its client stays or not; `before` may refuse it.
    """

    async def answer(request: Request) -> Response:
        before(request)
        body = api.parse(kind, await read_body(request) or b"{}")
        try:
            said = await asyncio.shield(asyncio.ensure_future(verb(body)))
        except RefusedError:
            raise
        except SlmopsError as error:
            raise RefusedError(NOT_READY, f"{error}; {error.remedy}", reason="not_now") from error
        return Response(msgspec.json.encode(said), media_type="application/json")

    return answer

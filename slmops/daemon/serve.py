"""The HTTP server: requests on OpenAI's paths are read here, and answered by workers.

What is computed is a worker's; this process knows no model, so that it is always free to say how it stands.

Laws: /healthz answers from the first moment, /readyz says 200 only while the current version can answer; a
request whose client has left is stopped; no prompt and no answer is ever logged or spooled.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from slmops.daemon import api, records
from slmops.daemon.cache import Name
from slmops.daemon.protocol import Done, Kind, Piece
from slmops.daemon.refusal import CLIENT_GONE, NOT_READY, SERVER_ERROR, RefusedError, error_body
from slmops.daemon.relay import Errand, relay
from slmops.daemon.service import Service
from slmops.daemon.visit import Visit, read_body, while_there
from slmops.wire import FROM_AGENT

LENIENT, IGNORED = "x-slmops-lenient", "x-slmops-ignored"
PREFIXES: dict[Kind, str] = {
    "chat": "chatcmpl-",
    "completion": "cmpl-",
    "embeddings": "embd-",
    "classify": "clsf-",
}
LONGEST_PATH = 200
"""Characters that are told of a path that is not there."""
log = logging.getLogger("slmops.daemon")


@dataclass(frozen=True)
class Asked:
    """A request that was read and found valid."""

    kind: Kind
    request: Any
    """As `api` has it."""
    body: bytes
    """What a worker is given: it holds no unknown field."""
    ignored: tuple[str, ...] = ()
    """Unknown fields that were taken out, which the client asked for."""

    @property
    def streams(self) -> bool:
        """Say whether the answer is to come piece by piece."""
        return bool(getattr(self.request, "stream", False))


class Front:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _request: Request) -> Response:
        """GET /healthz: the process is alive."""
        return _json({"alive": True})

    async def readiness(self, request: Request) -> Response:
        """GET /readyz: the current version answers; `scores`: it tells log-probabilities.

        Who may not ask the model is told no more than that.
        """
        said = self._service.readiness()
        shown = said if request.state.caller.may("infer") else {"ready": said["ready"]}
        return _json(shown, 200 if said["ready"] else NOT_READY)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: Prometheus' text."""
        return Response(self._service.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def models(self, _request: Request) -> Response:
        """GET /v1/models: the versions that are resident; the current one by its name alone.

        Who asks before the first is there waits, as for an answer.
        """
        await self._service.begun()
        return _json({"object": "list", "data": self._service.models()})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}: one of those."""
        await self._service.begun()
        return _json(self._service.model(request.path_params["id"]))

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json: all of this, for programs."""
        from slmops.daemon import openapi  # noqa: PLC0415 - seldom asked for

        return _json(openapi.document())

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._visit(request, Visit("chat"))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._visit(request, Visit("completion"))

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        return await self._visit(request, Visit("embeddings"))

    async def classify(self, request: Request) -> Response:
        """POST /v1/classify."""
        return await self._visit(request, Visit("classify"))

    async def _visit(self, request: Request, visit: Visit) -> Response:
        """Return the answer, or in OpenAI's shape why there is none; report the visit when it is over."""
        response: Response | None = None
        visit.request = records.request_id(request.headers.get(records.HEADER))
        try:
            response = await self._answer(request, visit)
        except RefusedError as refusal:
            visit.status = refusal.status
            response = refuse(refusal)
        except ClientDisconnect:
            visit.status = CLIENT_GONE
            response = Response(status_code=CLIENT_GONE)
        finally:
            if not isinstance(response, EventStream):
                self._service.report(visit)
        response.headers[records.HEADER] = visit.request
        return response

    async def _answer(self, request: Request, visit: Visit) -> Response:
        service = self._service
        caller = request.scope["state"]["caller"]
        service.refuse_under_pressure()
        asked = _read(visit.kind, await read_body(request), lenient=request.headers.get(LENIENT) == "1")
        errand = self._errand(asked, caller.name)
        visit.key = caller.name
        if FROM_AGENT not in request.headers and service.samples(visit.request):
            visit.asked = _words(asked.request)
        headers = {IGNORED: ", ".join(asked.ignored)} if asked.ignored else {}
        name = service.name(asked.request, errand)
        kept = service.remembered(name)
        if kept is not None and name is not None:
            service.recalls(visit, name[0])
            visit.remember(kept)
            return Response(kept.again(errand.answer), headers=headers, media_type=_media(asked))
        pieces = relay(service.desk, errand, lambda worker: service.begins(visit, worker))
        if asked.streams:
            first = await while_there(request, anext(pieces))
            visit.status = CLIENT_GONE
            events = self._events(first, pieces, errand, name, visit)
            return EventStream(events, headers, lambda: self._end(events, pieces, errand, visit))
        done = await while_there(request, _whole(pieces, visit))
        service.remember(name, errand, visit, done.data, done)
        service.shadow(errand, visit)
        return Response(done.data, headers=headers, media_type="application/json")

    def _errand(self, asked: Asked, who: str) -> Errand:
        sticky = getattr(asked.request, "user", None) or uuid.uuid4().hex
        return Errand(
            kind=asked.kind,
            body=asked.body,
            answer=PREFIXES[asked.kind] + uuid.uuid4().hex,
            created=int(time.time()),
            who=who,
            cost=len(asked.body) / 4 + getattr(asked.request, "cost", 0),
            target=self._service.target(asked.request.model, sticky),
            sticky=sticky,
        )

    async def _events(
        self,
        first: Piece | Done,
        pieces: AsyncGenerator[Piece | Done],
        errand: Errand,
        name: Name | None,
        visit: Visit,
    ) -> AsyncGenerator[bytes]:
        """Yield the events of a stream whose first piece is there; `name` is what it is kept under."""
        told = bytearray()
        try:
            async for said in _begin_with(first, pieces):
                visit.saw(said)
                if name is not None:
                    told += said.data
                if isinstance(said, Done):
                    self._service.remember(name, errand, visit, bytes(told), said)
                if said.data:
                    yield said.data
        except RefusedError as refusal:
            visit.status = refusal.status
            yield api.error_event(str(refusal))

    async def _end(
        self,
        events: AsyncGenerator[bytes],
        pieces: AsyncGenerator[Piece | Done],
        errand: Errand,
        visit: Visit,
    ) -> None:
        """See a stream off, however it ended."""
        await events.aclose()
        await pieces.aclose()
        self._service.report(visit)
        self._service.shadow(errand, visit)


class EventStream(StreamingResponse):
    """Server-sent events, with something to do at the end even if it comes before the first."""

    def __init__(
        self, events: AsyncGenerator[bytes], headers: dict[str, str], at_end: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={"cache-control": "no-store", **headers}
        )
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._at_end()


def application(service: Service, admin: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the ASGI application; `admin` are the routes that only some may ask."""
    front = Front(service)
    return Starlette(
        routes=[
            Route("/healthz", front.health),
            Route("/readyz", front.readiness),
            Route("/metrics", front.metrics),
            Route("/openapi.json", front.openapi),
            Route("/v1/models", front.models),
            Route("/v1/models/{id}", front.model),
            Route("/v1/chat/completions", front.chat, methods=["POST"]),
            Route("/v1/completions", front.complete, methods=["POST"]),
            Route("/v1/embeddings", front.embed, methods=["POST"]),
            Route("/v1/classify", front.classify, methods=["POST"]),
            *admin,
        ],
        exception_handlers={
            HTTPException: _no_such_path,
            RefusedError: _refused,
            Exception: _unforeseen,
        },
    )


def refuse(refusal: RefusedError) -> Response:
    """Return a refusal as OpenAI's clients know it."""
    said = error_body(refusal.status, str(refusal), refusal.reason, refusal.param)
    response = _json(said, refusal.status)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    return response


def _read(kind: str, body: bytes, *, lenient: bool) -> Asked:
    """Read a body; where it is lenient, unknown fields are taken out, and told of."""
    known = cast("Kind", kind)
    if not lenient:
        return Asked(known, api.parse(api.kind_of[known], body), body)
    request, ignored = api.parse_leniently(api.kind_of[known], body)
    return Asked(known, request, msgspec.json.encode(request), tuple(ignored))


async def _whole(pieces: AsyncGenerator[Piece | Done], visit: Visit) -> Done:
    """Return the end of an answer that is told in one piece, and give the turn back."""
    async with aclosing(pieces):
        async for said in pieces:
            visit.saw(said)
            if isinstance(said, Done):
                return said
    raise ClientDisconnect


async def _begin_with(
    first: Piece | Done, pieces: AsyncGenerator[Piece | Done]
) -> AsyncGenerator[Piece | Done]:
    yield first
    async for said in pieces:
        yield said


def _words(request: Any) -> str:
    """Return what was asked as text: a conversation's turns, a prompt, or texts to label."""
    if isinstance(request, api.ChatRequest):
        turns = (message.plain for message in request.messages)
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    if isinstance(request, api.CompletionRequest):
        return request.text
    return "\n".join(text for text in _texts(request) if isinstance(text, str))


def _texts(request: Any) -> Sequence[Any]:
    return request.texts if isinstance(request, api.ClassifyRequest) else request.inputs


def _media(asked: Asked) -> str:
    return "text/event-stream" if asked.streams else "application/json"


def _json(said: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(said), status, media_type="application/json")


async def _refused(_request: Request, error: Exception) -> Response:
    return refuse(cast("RefusedError", error))


async def _no_such_path(request: Request, error: Exception) -> Response:
    said = cast("HTTPException", error)
    asked = f"{request.method} {request.url.path[:LONGEST_PATH]}"
    reason = said.detail.lower().replace(" ", "_")
    response = refuse(RefusedError(said.status_code, f"{asked}: {said.detail}", reason=reason))
    response.headers.update(said.headers or {})
    return response


async def _unforeseen(_request: Request, _error: Exception) -> Response:
    return refuse(RefusedError(SERVER_ERROR, "the daemon failed; its log says how"))

"""The HTTP server: one artifact, answered for on OpenAI's paths, a classifier's on /v1/classify.

Requests are read, counted and answered here; computing is the desk's, reading text and writing the
spool are a clerk's (one more thread), so that the event loop is always free to say how it stands.

Laws: /healthz answers from the first moment, /readyz says 200 only once the model has spoken; a
request whose client has left is stopped; no prompt and no answer is ever logged or spooled.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slmops.artifact.description import Description
from slmops.daemon import api
from slmops.daemon.chat import chat_ids, completion_ids
from slmops.daemon.desk import RETRY_SECONDS, Desk
from slmops.daemon.generate import Ask, Piece
from slmops.daemon.load import Model
from slmops.daemon.metrics import Metrics
from slmops.daemon.refusal import (
    BAD_REQUEST,
    CLIENT_GONE,
    NOT_FOUND,
    NOT_READY,
    SERVER_ERROR,
    RefusedError,
)
from slmops.daemon.scores import Scored
from slmops.daemon.visit import Visit, read_body, while_there
from slmops.errors import SlmopsError
from slmops.telemetry.events import RequestFinished
from slmops.telemetry.spool import Spool

if TYPE_CHECKING:
    from slmops.daemon.classifier import Classifier

log = logging.getLogger("slmops.daemon")
R = TypeVar("R", bound=api.Request)
T = TypeVar("T")


class Service:
    """Everything the handlers share."""

    def __init__(self, description: Description, digest: str, spool: Path | None) -> None:
        self.description = description
        self.digest = digest
        self.desk = Desk()
        self.model: Model | Classifier | None = None
        """None until it is loaded and has answered once."""
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="clerk")
        self._spool = Spool(spool) if spool else None
        self._metrics = Metrics(description, digest, lambda: self.desk.waiting)

    async def open(self, load: Callable[[], Model | Classifier]) -> None:
        """Load the model on the computing thread; raise what `load` raises."""
        began = time.monotonic()
        self.model = await self.desk.run(load)
        log.info("%s is ready after %.1f s", self.description.reference, time.monotonic() - began)

    def close(self) -> None:
        """Break off what is still going on and see that what was reported is on disk."""
        self.desk.stop()
        self._clerk.shutdown()

    async def health(self, _request: Request) -> Response:
        """GET /healthz: the process is alive."""
        return _json({"alive": True})

    async def readiness(self, _request: Request) -> Response:
        """GET /readyz: the model answers; `scores`: it tells log-probabilities."""
        ready = self.model is not None
        said = {
            "ready": ready,
            "release": self.description.reference,
            "digest": self.digest,
            "scores": isinstance(self.model, Model),
        }
        return _json(said, 200 if ready else NOT_READY)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: Prometheus' text."""
        return Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def models(self, _request: Request) -> Response:
        """GET /v1/models: the one release that is served."""
        said = {
            "id": self.description.name,
            "object": "model",
            "created": 0,
            "owned_by": "slmops",
            "release": self.description.reference,
            "digest": self.digest,
            "adapter": self.description.adapter,
        }
        return _json({"object": "list", "data": [said]})

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        visit = Visit()
        return await self._visit(visit, self._generate(request, api.ChatRequest, _chat_ids, visit))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        visit = Visit()
        return await self._visit(
            visit, self._generate(request, api.CompletionRequest, _completion_ids, visit)
        )

    async def classify(self, request: Request) -> Response:
        """POST /v1/classify."""
        visit = Visit()
        return await self._visit(visit, self._classify(request, visit))

    async def _visit(self, visit: Visit, answer: Awaitable[Response]) -> Response:
        """Return the answer, or in OpenAI's shape why there is none; report the visit when it is over."""
        response = None
        try:
            response = await answer
        except RefusedError as refusal:
            visit.status = refusal.status
            response = _refuse(refusal)
        except SlmopsError as error:
            log.exception("a request failed")
            response = _refuse(RefusedError(SERVER_ERROR, str(error)))
        except ClientDisconnect:
            visit.status = CLIENT_GONE
            response = Response(status_code=CLIENT_GONE)
        finally:
            if not isinstance(response, EventStream):
                self._report(visit)
        return response

    async def _generate(
        self, request: Request, kind: type[R], read: Callable[[Model, R], list[int]], visit: Visit
    ) -> Response:
        asked = api.parse(kind, await read_body(request))
        pieces = await self._pieces(asked, read, visit)
        answer = self._answer(asked)
        if not asked.stream:
            echoed = asked.prompt if isinstance(asked, api.CompletionRequest) and asked.echo else ""
            whole = self._whole(pieces, answer, visit, echoed, scores=asked.alternatives is not None)
            return await while_there(request, whole)
        first = await while_there(request, anext(pieces))
        events = self._events(first, pieces, answer, visit)
        return EventStream(events, lambda: self._end(events, pieces, visit))

    async def _classify(self, request: Request, visit: Visit) -> Response:
        asked = api.parse(api.ClassifyRequest, await read_body(request))
        model = self._called(asked.model)
        if isinstance(model, Model):
            raise RefusedError(BAD_REQUEST, "this model has no labels; use /v1/completions")
        loop = asyncio.get_running_loop()
        texts = await loop.run_in_executor(self._clerk, lambda: [model.ids(text) for text in asked.texts])
        visit.prompt_tokens = sum(map(len, texts))
        scores = await while_there(request, _all(self.desk.pieces(lambda gone: model.answers(texts, gone))))
        visit.status, visit.first_token = 200, time.monotonic() - visit.arrived
        release, tokens = self.description.reference, visit.prompt_tokens
        body = api.labelled(model.labels, scores, release=release, digest=self.digest, tokens=tokens)
        return Response(body, media_type="application/json")

    def _called(self, name: str | None) -> Model | Classifier:
        """Return the model, which a request may call by `name`; raise RefusedError when there is none."""
        if name not in {None, self.description.name, self.description.reference}:
            message = f"no model {name!r} here; there is {self.description.name!r}"
            raise RefusedError(NOT_FOUND, message, reason="model_not_found")
        if self.model is None:
            raise RefusedError(NOT_READY, "the model is loading", reason="loading", retry_after=RETRY_SECONDS)
        return self.model

    async def _pieces(
        self, asked: R, read: Callable[[Model, R], list[int]], visit: Visit
    ) -> AsyncGenerator[Piece]:
        """Return the pieces of the answer to come; nothing is computed before the first is wanted."""
        model = self._called(asked.model)
        if not isinstance(model, Model):
            raise RefusedError(BAD_REQUEST, "this model labels texts; use /v1/classify")
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._clerk, read, model, asked)
        visit.prompt_tokens = len(ids)
        ask = self._ask(asked, ids)
        return self.desk.pieces(lambda gone: model.answer(ask, gone))

    def _ask(self, asked: api.Request, ids: list[int]) -> Ask:
        defaults = self.description.generation
        room, limit = self.description.context - len(ids), asked.limit(defaults)
        if not ids:
            raise RefusedError(BAD_REQUEST, "the prompt is empty", reason="invalid_value")
        if room < min(1, limit):
            raise RefusedError(
                BAD_REQUEST,
                f"the prompt has {len(ids)} tokens; the context, answer included, {self.description.context}",
                reason="context_length_exceeded",
            )
        scores_prompt = asked.echoes and asked.alternatives is not None
        return Ask(
            ids, min(room, limit), asked.sampling(defaults), asked.stops, asked.alternatives, scores_prompt
        )

    def _answer(self, asked: api.Request) -> api.Answer:
        chat = isinstance(asked, api.ChatRequest)
        return api.Answer(
            chat=chat,
            id=("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
            created=int(time.time()),
            release=self.description.reference,
            digest=self.digest,
            usage_wanted=asked.wants_usage,
        )

    async def _whole(
        self,
        pieces: AsyncGenerator[Piece],
        answer: api.Answer,
        visit: Visit,
        echoed: str,
        *,
        scores: bool,
    ) -> Response:
        text, scored = [echoed], list[Scored]()
        async with aclosing(pieces):
            async for piece in pieces:
                visit.saw(piece)
                text.append(piece.text)
                scored += piece.scored
                if piece.finish:
                    visit.status = 200
                    counts = api.usage(visit.prompt_tokens, visit.output_tokens)
                    told = scored if scores else None
                    body = answer.whole("".join(text), piece.finish, counts, told)
                    return Response(body, media_type="application/json")
        raise ClientDisconnect

    async def _events(
        self, first: Piece, pieces: AsyncGenerator[Piece], answer: api.Answer, visit: Visit
    ) -> AsyncGenerator[bytes]:
        """Yield the events of a stream whose first piece is there already."""
        visit.status = CLIENT_GONE
        try:
            for event in answer.opening():
                yield event
            async for piece in _begin_with(first, pieces):
                visit.saw(piece)
                if piece.text:
                    yield answer.piece(piece.text)
                if piece.finish:
                    visit.status = 200
                    counts = api.usage(visit.prompt_tokens, visit.output_tokens)
                    for event in answer.closing(piece.finish, counts):
                        yield event
                    return
        except RefusedError as refusal:
            visit.status = refusal.status
            yield api.error_event(str(refusal))
        except SlmopsError as error:
            log.exception("a stream failed")
            visit.status = SERVER_ERROR
            yield api.error_event(str(error))

    async def _end(self, events: AsyncGenerator[bytes], pieces: AsyncGenerator[Piece], visit: Visit) -> None:
        """See a stream off, however it ended."""
        await events.aclose()
        await pieces.aclose()
        self._report(visit)

    def _report(self, visit: Visit) -> None:
        event = RequestFinished(
            time=time.time(),
            release=self.description.reference,
            digest=self.digest,
            status=visit.status,
            prompt_tokens=visit.prompt_tokens,
            output_tokens=visit.output_tokens,
            first_token_seconds=visit.first_token,
            seconds=time.monotonic() - visit.arrived,
        )
        self._metrics.count(event)
        if self._spool:
            self._clerk.submit(_keep, self._spool, event)


class EventStream(StreamingResponse):
    """Server-sent events, with something to do at the end even if it comes before the first."""

    def __init__(self, events: AsyncGenerator[bytes], at_end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._at_end()


def application(service: Service) -> Starlette:
    """Return the ASGI application."""
    return Starlette(
        routes=[
            Route("/healthz", service.health),
            Route("/readyz", service.readiness),
            Route("/metrics", service.metrics),
            Route("/v1/models", service.models),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.complete, methods=["POST"]),
            Route("/v1/classify", service.classify, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _no_such_path, Exception: _unforeseen},
    )


def _completion_ids(model: Model, asked: api.CompletionRequest) -> list[int]:
    return completion_ids(model.vocabulary, asked.prompt)


def _chat_ids(model: Model, asked: api.ChatRequest) -> list[int]:
    if model.template is None:
        raise RefusedError(BAD_REQUEST, "this model has no chat template; use /v1/completions")
    messages = [message.plain for message in asked.messages]
    return chat_ids(model.vocabulary, model.template, messages, datetime.now().astimezone())


def _keep(spool: Spool, event: RequestFinished) -> None:
    try:
        spool.append(event)
    except OSError as error:
        log.error("an event is lost, the spool cannot be written: %s", error)  # noqa: TRY400


async def _all(pieces: AsyncGenerator[T]) -> list[T]:
    async with aclosing(pieces):
        return [piece async for piece in pieces]


async def _begin_with(first: Piece, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    yield first
    async for piece in pieces:
        yield piece


def _json(said: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(said), status, media_type="application/json")


def _refuse(refusal: RefusedError) -> Response:
    response = _json(api.error_body(refusal.status, str(refusal), refusal.reason), refusal.status)
    if refusal.retry_after is not None:
        response.headers["retry-after"] = str(refusal.retry_after)
    return response


async def _no_such_path(request: Request, error: Exception) -> Response:
    said = cast("HTTPException", error)
    return _refuse(RefusedError(said.status_code, f"{request.method} {request.url.path}: {said.detail}"))


async def _unforeseen(_request: Request, _error: Exception) -> Response:
    return _refuse(RefusedError(SERVER_ERROR, "the daemon failed; its log says how"))

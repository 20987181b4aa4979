"""Understand what a worker is asked: read a body into work for the batch, and the work's words into answers.

It does not know sockets or engines. A body was read once already, by the router; what the model alone can
say of it, its tokens above all, is said here. The very bytes that clients get are made here too.

Law: of each request there is one end: Done or Refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from slmops.artifact.description import Description
from slmops.daemon import answer, api, constrain, protocol
from slmops.daemon.batch import Job, Work
from slmops.daemon.chat import chat_ids, completion_ids
from slmops.daemon.generate import Piece, Wish
from slmops.daemon.load import Model
from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.tools import Calls
from slmops.daemon.vectors import Vectors

if TYPE_CHECKING:
    from slmops.daemon.classifier import Classifier

Word = protocol.Piece | protocol.Done


@dataclass
class Order:
    """One request: the work that it makes, and how what comes of that is told."""

    id: int
    work: Work
    tell: Callable[[Piece | None], Word | None]
    """Takes what the work said, None for an errand's end; returns what the router is told of it, if
    anything."""


@dataclass(eq=False)
class Labels:
    """The errand to label texts, one text a bit."""

    scores: Iterator[list[float]]
    count: int
    found: list[list[float]] = field(default_factory=list)

    def bit(self) -> bool:
        """See `Errand`."""
        self.found.append(next(self.scores))
        return len(self.found) == self.count


class Telling:
    """Tells the router of one answer that is being written."""

    def __init__(self, ask: protocol.Ask, job: Job, told: answer.Telling) -> None:
        self._id, self._job, self._told = ask.id, job, told
        self._began = False

    def __call__(self, piece: Piece | None) -> Word | None:
        """See `Order`."""
        assert piece is not None  # noqa: S101 - an answer has no end but its last piece
        data = self._told.add(piece.text, piece.scored)
        if piece.finish:
            return self._done(data, piece)
        if self._began and not data:
            return None
        self._began = True
        return protocol.Piece(id=self._id, data=data, tokens=piece.tokens)

    def _done(self, data: bytes, piece: Piece) -> protocol.Done:
        assert piece.finish is not None  # noqa: S101 - it is the last
        prompt = len(self._job.writing.wish.ids)
        counts = answer.usage(prompt, piece.tokens, self._job.cached)
        return protocol.Done(
            id=self._id,
            data=data + self._told.end(piece.finish, counts),
            prompt_tokens=prompt,
            cached_tokens=self._job.cached,
            output_tokens=piece.tokens,
            finish=self._told.finish(piece.finish),
            text=self._told.text,
        )


class Clerk:
    """Reads requests for one loaded model."""

    def __init__(self, model: Model | Classifier, description: Description, digest: str) -> None:
        """`digest` is the artifact's, as clients are told."""
        self._model, self._description, self._digest = model, description, digest
        if isinstance(model, Model):
            self._grammars = constrain.Grammars(
                model.vocabulary,
                model.engine.vocabulary,
                description.stop_ids,
                tagged=model.template is not None and model.template.tagged,
            )

    @property
    def kinds(self) -> tuple[protocol.Kind, ...]:
        """Return what the model can be asked."""
        if not isinstance(self._model, Model):
            return ("classify",)
        chat: tuple[protocol.Kind, ...] = ("chat",) if self._model.template else ()
        vectors: tuple[protocol.Kind, ...] = ("embeddings",) if self._model.engine.width else ()
        return (*chat, "completion", *vectors)

    def ready(self, seconds: float) -> protocol.Ready:
        """Return what the router is told of the model, which took so many seconds to load."""
        writes = isinstance(self._model, Model)
        return protocol.Ready(
            slots=self._model.engine.slots if isinstance(self._model, Model) else 1,
            pool=self._model.engine.pool if isinstance(self._model, Model) else self._description.context,
            context=self._description.context,
            kinds=self.kinds,
            scores=writes,
            constrains=writes and constrain.available(),
            tools=isinstance(self._model, Model)
            and self._model.template is not None
            and self._model.template.knows_tools,
            seconds=seconds,
        )

    def read(self, ask: protocol.Ask) -> Order:
        """Return the order that a request makes; raise RefusedError when it cannot be one."""
        asked = api.parse(api.kind_of[ask.kind], ask.body)
        model = self._model
        if isinstance(asked, api.ClassifyRequest):
            if isinstance(model, Model):
                raise RefusedError(BAD_REQUEST, "this model has no labels; use /v1/completions")
            return self._label(ask, asked, model)
        if not isinstance(model, Model):
            raise RefusedError(BAD_REQUEST, "this model labels texts; use /v1/classify")
        asked.within(model.engine.vocabulary)
        if isinstance(asked, api.EmbeddingsRequest):
            return self._embed(ask, asked, model)
        return self._write(ask, asked, model)

    def _write(
        self, ask: protocol.Ask, asked: api.ChatRequest | api.CompletionRequest, model: Model
    ) -> Order:
        ids = _ids(model, asked)
        defaults = self._description.generation
        wish = Wish(
            ids,
            self._limit(ids, asked.limit(defaults), asked.place),
            asked.sampling(defaults),
            asked.stops,
            asked.alternatives,
            scores_prompt=asked.echoes and asked.alternatives is not None,
            anew=asked.cache_prompt is False,
            constraint=self._grammars.constraint(asked),
        )
        job = Job(model.writing(wish))
        shape = answer.Answer(
            chat=isinstance(asked, api.ChatRequest),
            id=ask.answer,
            created=ask.created,
            release=self._description.reference,
            digest=self._digest,
            usage_wanted=asked.wants_usage,
        )
        told = answer.Telling(
            shape,
            stream=bool(asked.stream),
            scores=asked.alternatives is not None,
            echoed=_echoed(model, asked),
            calls=_calls(asked),
        )
        return Order(ask.id, job, Telling(ask, job, told))

    def _limit(self, ids: list[int], wanted: int, param: str) -> int:
        """Return the most tokens of answer to a prompt; raise RefusedError when there is no room for any."""
        room = self._description.context - len(ids)
        if not ids:
            raise RefusedError(BAD_REQUEST, "the prompt is empty", reason="invalid_value", param=param)
        if room < min(1, wanted):
            raise self._too_long(len(ids), "the context, answer included,", param)
        return min(room, wanted)

    def _too_long(self, count: int, what: str, param: str) -> RefusedError:
        message = f"the prompt has {count} tokens; {what} {self._description.context}"
        return RefusedError(BAD_REQUEST, message, reason="context_length_exceeded", param=param)

    def _embed(self, ask: protocol.Ask, asked: api.EmbeddingsRequest, model: Model) -> Order:
        width = model.engine.width
        if not width:
            message = "this model has no embeddings: it says nothing but logits"
            raise RefusedError(BAD_REQUEST, message, reason="not_supported", param="model")
        if asked.dimensions not in {None, width}:
            message = f"dimensions: expected {width}, as this model's vectors have, got {asked.dimensions}"
            raise RefusedError(BAD_REQUEST, message, reason="invalid_value", param="dimensions")
        texts = [
            model.vocabulary.encode(each, begin=True, controls=False) if isinstance(each, str) else each
            for each in asked.inputs
        ]
        if not all(texts):
            message = "input: a text has no tokens"
            raise RefusedError(BAD_REQUEST, message, reason="invalid_value", param="input")
        longest = max(map(len, texts))
        if longest > self._description.context:
            raise self._too_long(longest, "the context", "input")
        vectors, tokens = Vectors(texts), sum(map(len, texts))

        def tell(_said: Piece | None) -> Word:
            packed = asked.encoding_format == "base64"
            body = answer.embedded(
                vectors.found, release=self._description.reference, tokens=tokens, packed=packed
            )
            return _done(ask, body, tokens)

        return Order(ask.id, vectors, tell)

    def _label(self, ask: protocol.Ask, asked: api.ClassifyRequest, model: Classifier) -> Order:
        texts = [model.ids(text) for text in asked.texts]
        errand, tokens = Labels(model.answers(texts, lambda: False), len(texts)), sum(map(len, texts))

        def tell(_said: Piece | None) -> Word:
            shape: dict[str, Any] = {"release": self._description.reference, "digest": self._digest}
            return _done(ask, answer.labelled(model.labels, errand.found, **shape, tokens=tokens), tokens)

        return Order(ask.id, errand, tell)


def _ids(model: Model, asked: api.ChatRequest | api.CompletionRequest) -> list[int]:
    """Return the prompt's tokens."""
    if isinstance(asked, api.CompletionRequest):
        return asked.ids or completion_ids(model.vocabulary, asked.text)
    if model.template is None:
        raise RefusedError(BAD_REQUEST, "this model has no chat template; use /v1/completions")
    messages = [message.plain for message in asked.messages]
    tools = [tool.plain for tool in asked.offered]
    return chat_ids(model.vocabulary, model.template, messages, datetime.now().astimezone(), tools)


def _calls(asked: api.ChatRequest | api.CompletionRequest) -> Calls | None:
    """Return what reads the calls in an answer, where tools are offered."""
    offered = asked.offered if isinstance(asked, api.ChatRequest) else []
    return Calls(tool.function.name for tool in offered) if offered else None


def _echoed(model: Model, asked: api.ChatRequest | api.CompletionRequest) -> str:
    """Return what stands before the answer."""
    if not isinstance(asked, api.CompletionRequest) or not asked.echoes:
        return ""
    return model.vocabulary.decode(asked.ids) if asked.ids else asked.text


def _done(ask: protocol.Ask, body: bytes, tokens: int) -> protocol.Done:
    return protocol.Done(
        id=ask.id, data=body, prompt_tokens=tokens, cached_tokens=0, output_tokens=0, finish=""
    )

"""What may be asked over HTTP, and the shapes of the answers: OpenAI's.

It does not know the server, the clock or the model. What is not listed here is refused, not ignored:
a caller who asks for a thing that will not happen is told so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from slmops.daemon.generate import Finish
from slmops.daemon.refusal import BAD_REQUEST, NOT_READY, SERVER_ERROR, TOO_MANY, RefusedError
from slmops.daemon.sample import Sampling
from slmops.daemon.scores import Scored

MAX_TOKENS = 128
"""Tokens of an answer when neither the request nor the release says how many."""
MOST_TEXTS = 256
"""Texts that may be labelled in one request."""
DONE = b"data: [DONE]\n\n"

_Count = Annotated[int, Meta(ge=1)]
_Stop = Annotated[str, Meta(min_length=1)]


class TextPart(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One part of a message that comes in parts."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def plain(self) -> dict[str, str]:
        """Return the message as chat templates know it, with its parts joined."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What a stream should hold besides the answer."""

    include_usage: bool = False


class Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What both kinds of request have in common."""

    model: str | None = None
    """`name` or `name:version`; there is only one, so it need not be said, but not wrongly."""
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, which is told as a fault of the body, for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        if self.stream and (self.alternatives is not None or self.echoes):
            raise ValueError("logprobs and echo are not for stream: true")

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Say whether a stream should end with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def alternatives(self) -> int | None:
        """Return how many likeliest tokens to tell beside each token's log-probability; None: no scores."""
        return None

    @property
    def echoes(self) -> bool:
        """Say whether the prompt is to stand before the answer."""
        return False

    def limit(self, defaults: dict[str, float]) -> int:
        """Return the most tokens of answer, before the context has its say."""
        return int(_first(self.max_tokens, defaults.get("max_tokens"), MAX_TOKENS))

    def sampling(self, defaults: dict[str, float]) -> Sampling:
        """Return how to choose tokens: as asked, else as the release says, else greedily."""
        return Sampling(
            temperature=_first(self.temperature, defaults.get("temperature"), 0.0),
            top_k=int(_first(self.top_k, defaults.get("top_k"), 0)),
            top_p=_first(self.top_p, defaults.get("top_p"), 1.0),
            seed=None if self.seed is None else self.seed % 2**64,
        )


class ChatRequest(Request, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def __post_init__(self) -> None:
        """See `Request`."""
        super().__post_init__()
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true")

    @property
    def alternatives(self) -> int | None:
        """See `Request`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self, defaults: dict[str, float]) -> int:
        """See `Request`; `max_completion_tokens` is the newer name."""
        return self.max_completion_tokens or super().limit(defaults)


class CompletionRequest(Request, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    """None at all (0) is for a prompt that is echoed: its tokens are scored, and nothing is written."""
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    def __post_init__(self) -> None:
        """See `Request`."""
        super().__post_init__()
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is only for echo: true")

    @property
    def alternatives(self) -> int | None:
        """See `Request`."""
        return self.logprobs

    @property
    def echoes(self) -> bool:
        """See `Request`."""
        return bool(self.echo)


class ClassifyRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The body of POST /v1/classify."""

    input: str | Annotated[list[str], Meta(min_length=1, max_length=MOST_TEXTS)]
    model: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, which is told as a fault of the body, for a text without content."""
        if not all(text.strip() for text in self.texts):
            raise ValueError("input: a text is empty")

    @property
    def texts(self) -> list[str]:
        """Return the texts, also where there is only one."""
        return [self.input] if isinstance(self.input, str) else self.input


S = TypeVar("S", bound=msgspec.Struct)


def parse(kind: type[S], body: bytes) -> S:
    """Read a request's body; raise RefusedError that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError(BAD_REQUEST, f"{error}", reason="invalid_value") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(BAD_REQUEST, f"the body is not JSON: {error}", reason="invalid_json") from error


@dataclass(frozen=True)
class Answer:
    """The wrapping of one answer: all that its shapes hold besides text and counts."""

    chat: bool
    id: str
    created: int
    """Seconds since the epoch."""
    release: str
    digest: str
    usage_wanted: bool = False
    """Whether the chunks of a stream speak of usage."""

    def whole(
        self, text: str, finish: Finish, usage: dict[str, int], scored: Sequence[Scored] | None = None
    ) -> bytes:
        """Return the answer in one piece; `scored` are its tokens, where that was asked for."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        shape = _content if self.chat else _columns
        scores = None if scored is None else shape(scored)
        choice = {"index": 0, **said, "logprobs": scores, "finish_reason": finish}
        kind = "chat.completion" if self.chat else "text_completion"
        return msgspec.json.encode({**self._envelope(kind), "choices": [choice], "usage": usage})

    def opening(self) -> Iterator[bytes]:
        """Yield what a stream begins with: in a chat, who speaks."""
        if self.chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def piece(self, text: str) -> bytes:
        """Return one piece of a stream."""
        return self._chunk({"delta": {"content": text}} if self.chat else {"text": text}, None)

    def closing(self, finish: Finish, usage: dict[str, int]) -> Iterator[bytes]:
        """Yield what a stream ends with."""
        yield self._chunk({"delta": {}} if self.chat else {"text": ""}, finish)
        if self.usage_wanted:
            yield _event({**self._envelope(self._kind), "choices": [], "usage": usage})
        yield DONE

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, said: dict[str, Any], finish: Finish | None) -> bytes:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.usage_wanted else {}
        return _event({**self._envelope(self._kind), "choices": [choice], **usage})

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.release,
            "system_fingerprint": self.digest or None,
        }


def _columns(scored: Sequence[Scored]) -> dict[str, list[Any]]:
    """Return the scores of a completion: a column for each thing that is said of a token."""
    sizes = [len(each.text) for each in scored]
    return {
        "tokens": [each.text for each in scored],
        "token_logprobs": [each.logprob for each in scored],
        # Of two tokens that are written alike the likelier one counts; it comes first.
        "top_logprobs": [dict(reversed(each.top)) if each.top else None for each in scored],
        "text_offset": [0, *itertools.accumulate(sizes[:-1])][: len(sizes)],
    }


def _content(scored: Sequence[Scored]) -> dict[str, list[Any]]:
    """Return the scores of a chat's answer."""

    def told(text: str, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            {**told(each.text, each.logprob), "top_logprobs": [told(*other) for other in each.top]}
            for each in scored
        ]
    }


def labelled(
    labels: Sequence[str], scores: Sequence[Sequence[float]], *, release: str, digest: str, tokens: int
) -> bytes:
    """Return the answer of /v1/classify: for each text its likeliest label and the probability of each."""
    data = [
        {
            "object": "classification",
            "index": index,
            "label": labels[max(range(len(row)), key=row.__getitem__)],
            "scores": dict(zip(labels, row, strict=True)),
        }
        for index, row in enumerate(scores)
    ]
    envelope = {"object": "list", "model": release, "system_fingerprint": digest or None}
    return msgspec.json.encode({**envelope, "data": data, "usage": usage(tokens, 0)})


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return the counts as OpenAI names them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


def error_body(status: int, message: str, reason: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kinds = {TOO_MANY: "rate_limit_error", NOT_READY: "server_error", SERVER_ERROR: "server_error"}
    kind = kinds.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": reason}}


def error_event(message: str) -> bytes:
    """Return an error that came after the stream had begun."""
    return _event(error_body(SERVER_ERROR, message))


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)

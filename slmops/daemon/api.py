"""What may be asked over HTTP: OpenAI's requests, and a few words more.

The router reads requests with this: no numpy. It does not know the server, the clock, the model or, errors
apart, the shapes of answers. What is not listed here is refused, not ignored: a caller who asks for a thing
that will not happen is told so; `parse_leniently` is for one who would rather be answered.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from slmops.daemon import complaint
from slmops.daemon.protocol import Kind
from slmops.daemon.refusal import BAD_REQUEST, SERVER_ERROR, RefusedError, error_body
from slmops.daemon.sampling import Sampling
from slmops.daemon.turns import Message, NamedTool, ResponseFormat, Struct, TextFormat, Tool

MAX_TOKENS = 128
"""Tokens of an answer when neither the request nor the release says how many."""
MOST_TEXTS = 256
"""Texts that may be labelled, or made vectors of, in one request."""
MOST_IGNORED = 32
"""Unknown fields that a lenient reading leaves out; a body with more of them is meant for somebody else."""
LONGEST_NAME = 100
"""Characters that are told of an unknown field's name: a header has little room."""
LONGEST_GRAMMAR = 65536
"""Characters of a grammar."""

_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Stop = Annotated[str, Meta(min_length=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Biases = dict[Annotated[str, Meta(pattern=r"^[0-9]{1,7}$")], Annotated[float, Meta(ge=-100, le=100)]]


class StreamOptions(Struct, frozen=True, kw_only=True):
    """What a stream should hold besides the answer."""

    include_usage: bool = False


class Request(Struct, frozen=True, kw_only=True):
    """What both kinds of request that are answered with new text have in common."""

    model: str | None = None
    """As /v1/models calls it; None is the one that is current."""
    max_tokens: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: Annotated[_Biases, Meta(max_length=1024)] | None = None
    """By token id, in decimal."""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None
    grammar: Annotated[str, Meta(min_length=1, max_length=LONGEST_GRAMMAR)] | None = None
    """The answer keeps to it; Lark's notation or GBNF."""
    cache_prompt: bool | None = None
    """False: nothing that was read before is used again, and the same question has the same answer to the
    last bit."""

    def __post_init__(self) -> None:
        """Raise ValueError, which is told as a fault of the body, for fields that contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        if self.stream and self.echoes:
            raise ValueError("echo is not for stream: true")

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

    @property
    def place(self) -> str:
        """Return the field that the prompt stands in."""
        return "prompt"

    @property
    def cost(self) -> int:
        """Return how many tokens of answer are asked for, as far as the request says."""
        return self.limit({})

    def limit(self, defaults: dict[str, float]) -> int:
        """Return the most tokens of answer, before the context has its say."""
        return int(_first(self.max_tokens, defaults.get("max_tokens"), MAX_TOKENS))

    def sampling(self, defaults: dict[str, float]) -> Sampling:
        """Return how to choose tokens: as asked, else as the release says, else greedily."""
        return Sampling(
            temperature=_first(self.temperature, defaults.get("temperature"), 0.0),
            top_k=int(_first(self.top_k, defaults.get("top_k"), 0)),
            top_p=_first(self.top_p, defaults.get("top_p"), 1.0),
            min_p=_first(self.min_p, defaults.get("min_p"), 0.0),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            seed=None if self.seed is None else self.seed % 2**64,
        )

    def within(self, vocabulary: int) -> None:
        """Raise RefusedError, naming the field, for a token id that is not below `vocabulary`."""
        _known(vocabulary, "logit_bias", [int(token) for token in self.logit_bias or {}])


class ChatRequest(Request, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    def __post_init__(self) -> None:
        """See `Request`."""
        super().__post_init__()
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name")
        if not names and self.tool_choice not in {None, "none"}:
            raise ValueError("tool_choice is only for a request with tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"tool_choice: no function {self.tool_choice.function.name!r} is among the tools"
            )
        formed = self.response_format is not None and not isinstance(self.response_format, TextFormat)
        if formed and (self.grammar is not None or self.offered):
            raise ValueError(
                "response_format: an answer keeps to it, to a grammar or to tools, not to several"
            )
        if self.grammar is not None and self.offered:
            raise ValueError("grammar is not for a request with tools; say tool_choice: none")

    @property
    def offered(self) -> list[Tool]:
        """Return the tools that the model may call."""
        return list(self.tools or ()) if self.tool_choice != "none" else []

    @property
    def demanded(self) -> list[Tool]:
        """Return the tools of which one must be called; none where the model may also just speak."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.offered if tool.function.name == self.tool_choice.function.name]
        return self.offered if self.tool_choice == "required" else []

    @property
    def alternatives(self) -> int | None:
        """See `Request`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def place(self) -> str:
        """See `Request`."""
        return "messages"

    def limit(self, defaults: dict[str, float]) -> int:
        """See `Request`; `max_completion_tokens` is the newer name."""
        return self.max_completion_tokens or super().limit(defaults)


class CompletionRequest(Request, frozen=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str | Annotated[list[str | _Id], Meta(min_length=1)]
    """A text, also as a list of one; or token ids."""
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """None at all (0) is for a prompt that is echoed: its tokens are scored, and nothing is written."""
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    def __post_init__(self) -> None:
        """See `Request`."""
        super().__post_init__()
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is only for echo: true")
        if isinstance(self.prompt, list) and len(self.prompt) > 1 and self.ids is None:
            raise ValueError(
                "prompt: expected one text, or token ids alone; each text is asked for by itself"
            )

    @property
    def text(self) -> str:
        """Return the prompt; empty where it is token ids."""
        first = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return first if isinstance(first, str) else ""

    @property
    def ids(self) -> list[int] | None:
        """Return the prompt's token ids, where it was said so."""
        return _ids(self.prompt)

    @property
    def alternatives(self) -> int | None:
        """See `Request`."""
        return self.logprobs

    @property
    def echoes(self) -> bool:
        """See `Request`."""
        return bool(self.echo)

    def within(self, vocabulary: int) -> None:
        """See `Request`."""
        super().within(vocabulary)
        _known(vocabulary, "prompt", self.ids or [])


class EmbeddingsRequest(Struct, frozen=True, kw_only=True):
    """The body of POST /v1/embeddings."""

    input: str | Annotated[list[str | _Id | list[_Id]], Meta(min_length=1)]
    """A text or several, or the token ids of one or of several."""
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: _Count | None = None
    """Only as many as the model has."""
    user: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, which is told as a fault of the body, for what is no list of inputs."""
        if isinstance(self.input, list) and len({type(each) for each in self.input}) > 1:
            raise ValueError("input: expected texts, or token ids, not both")
        if len(self.inputs) > MOST_TEXTS:
            raise ValueError(f"input: expected at most {MOST_TEXTS} texts, got {len(self.inputs)}")
        if not all(self.inputs):
            raise ValueError("input: a text is empty")

    @property
    def inputs(self) -> list[str | list[int]]:
        """Return what vectors are wanted of: texts, or token ids; also where there is only one."""
        ids = _ids(self.input)
        if ids is not None:
            return [ids]
        return [self.input] if isinstance(self.input, str) else list(self.input)  # type: ignore[arg-type]

    @property
    def cost(self) -> int:
        """Return how many texts are to be read."""
        return len(self.inputs)

    def within(self, vocabulary: int) -> None:
        """See `Request`."""
        for each in self.inputs:
            _known(vocabulary, "input", each if isinstance(each, list) else [])


class ClassifyRequest(Struct, frozen=True, kw_only=True):
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

    @property
    def cost(self) -> int:
        """Return how many texts are to be read."""
        return len(self.texts)


AnyRequest = ChatRequest | CompletionRequest | EmbeddingsRequest | ClassifyRequest
kind_of: dict[Kind, type[AnyRequest]] = {
    "chat": ChatRequest,
    "completion": CompletionRequest,
    "embeddings": EmbeddingsRequest,
    "classify": ClassifyRequest,
}
S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


def parse(kind: type[S], body: bytes) -> S:
    """Read a request's body; raise RefusedError that names the field."""
    try:
        return _decoded(body, kind)
    except msgspec.ValidationError as error:
        raise _invalid(kind, error) from error


def parse_leniently(kind: type[S], body: bytes) -> tuple[S, list[str]]:
    """Read a request's body without the fields that are not known; return also which these are, in ASCII.

    Raise RefusedError for everything else that is wrong with it.
    """
    try:
        return parse(kind, body), []
    except RefusedError as refusal:
        if refusal.reason != "unknown_field":
            raise
    said, ignored = _decoded(body, dict), list[str]()
    while True:
        try:
            return msgspec.convert(said, kind), ignored
        except msgspec.ValidationError as error:
            if len(ignored) == MOST_IGNORED or not complaint.strike(said, str(error)):
                raise _invalid(kind, error) from error
            # A header's value neither begins nor ends with a space.
            name = json.dumps(complaint.blamed(str(error), ()))[1:-1].replace(" ", r"\u0020")
            ignored.append(name[:LONGEST_NAME])


def error_event(message: str) -> bytes:
    """Return an error that came after the stream had begun."""
    return b"data: " + msgspec.json.encode(error_body(SERVER_ERROR, message)) + b"\n\n"


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec says so too of half a surrogate pair that stands too near to the end for the other half.
        early = str(error) == "Input data was truncated"
        why = "it ends too soon, or holds half a surrogate pair" if early else error
        raise RefusedError(BAD_REQUEST, f"the body is not JSON: {why}", reason="invalid_json") from error


def _invalid(kind: type[msgspec.Struct], error: msgspec.ValidationError) -> RefusedError:
    message = str(error)
    reason = "invalid_value" if complaint.unknown(message) is None else "unknown_field"
    param = complaint.blamed(message, kind.__struct_fields__)
    said = complaint.told(message, kind.__struct_fields__)
    return RefusedError(BAD_REQUEST, said, reason=reason, param=param)


def _ids(said: str | list[Any]) -> list[int] | None:
    return list(said) if isinstance(said, list) and all(isinstance(each, int) for each in said) else None


def _known(vocabulary: int, field: str, ids: list[int]) -> None:
    highest = max(ids, default=-1)
    if highest >= vocabulary:
        message = f"{field}: expected token ids below {vocabulary}, got {highest}"
        raise RefusedError(BAD_REQUEST, message, reason="invalid_value", param=field)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)

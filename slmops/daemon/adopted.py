"""What an adopted llama-server is started with and asked, and what its events mean.

Pure. It speaks llama-server's own words (/completion), in which a prompt is token ids and all of sampling is
said; OpenAI's shapes are `answer`'s. It does not know sockets or processes.

Laws: nothing of sampling is left to llama-server's defaults, which are not ours; what it cannot do is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from slmops.artifact.description import Description
from slmops.daemon.api import ChatRequest, CompletionRequest
from slmops.daemon.refusal import BAD_REQUEST, SERVER_ERROR, RefusedError
from slmops.daemon.turns import JsonObjectFormat, JsonSchemaFormat, System

if TYPE_CHECKING:
    from slmops.daemon.scores import Scored

WARNINGS = "2"
"""llama-server's --log-verbosity that says what goes wrong, and nothing of requests."""


@dataclass(frozen=True)
class Sizes:
    """How large a server is wanted."""

    slots: int
    """Requests that are computed together at most."""
    pool: int
    """Tokens that all of them together have room for."""
    threads: int


@dataclass(frozen=True)
class Heard:
    """What one event of an answer says."""

    text: str
    tokens: int
    """Written so far; one that ends the answer by its id is not counted."""
    scored: tuple[Scored, ...] = ()
    finish: Literal["stop", "length"] | None = None
    cached: int = 0
    """Tokens of the prompt that had been read before, where this is the last event."""


def words(folder: str, description: Description, sizes: Sizes, door: str) -> list[str]:
    """Return the options by which llama-server serves the artifact in `folder` on the Unix socket `door`."""

    def within(name: str) -> str:
        return f"{folder}/{name}"

    template, adapter = description.chat_template, description.adapter
    return [
        *("--model", within(description.model), "--host", door, "--offline"),
        *("--ctx-size", str(sizes.pool), "--parallel", str(sizes.slots), "--kv-unified"),
        *("--threads", str(sizes.threads), "--poll", "0", "--device", "none"),
        *("--ubatch-size", str(description.micro_batch), "--batch-size", str(description.micro_batch)),
        # Host memory for prompts of others is memory that nobody planned.
        *("--cache-ram", "0", "--log-verbosity", WARNINGS, "--no-webui", "--no-slots"),
        *(("--jinja", "--chat-template-file", within(template)) if template else ()),
        *(("--lora", within(adapter)) if adapter else ()),
    ]


def check(asked: ChatRequest | CompletionRequest) -> None:
    """Raise RefusedError for what an adopted llama-server cannot do."""
    if asked.echoes and asked.alternatives is not None:
        raise _cannot("score a prompt: echo with logprobs", "echo")
    if asked.frequency_penalty or asked.presence_penalty:
        # Its penalties count the prompt's tokens too.
        raise _cannot("count the tokens of an answer alone", "frequency_penalty or presence_penalty")
    if isinstance(asked, ChatRequest) and asked.demanded:
        raise _cannot("be made to call a tool", "tool_choice")


def check_roles(asked: ChatRequest, traits: Mapping[str, bool]) -> None:
    """Raise RefusedError for turns that it would leave out without a word, by its traits of the template."""
    if not traits.get("supports_system_role", True) and any(
        isinstance(turn, System) for turn in asked.messages
    ):
        raise _cannot("tell this model what a system turn says: its template knows none", "messages")
    if asked.offered and not traits.get("supports_tools", True):
        raise _cannot("tell this model of tools: its template knows none", "tools")


def body(
    asked: ChatRequest | CompletionRequest, defaults: dict[str, float], ids: list[int], limit: int
) -> dict[str, Any]:
    """Return the body of POST /completion for a prompt of `ids` and an answer of at most `limit` tokens."""
    sampling, alternatives = asked.sampling(defaults), asked.alternatives
    return {
        "prompt": ids,
        "n_predict": limit,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": asked.cache_prompt is not False,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "logit_bias": [list(each) for each in sampling.logit_bias],
        # It takes seeds of 32 bits, the highest of which draws anew.
        "seed": -1 if sampling.seed is None else sampling.seed % (2**32 - 1),
        "stop": list(asked.stops),
        # The token itself is told of only beside at least one likeliest.
        "n_probs": 0 if alternatives is None else max(1, alternatives),
        **_form(asked),
    }


def heard(event: dict[str, Any], stop_ids: list[int], alternatives: int | None) -> Heard:
    """Return what an event of /completion says; raise RefusedError for one that tells of a failure."""
    if "error" in event:
        raise refusal(SERVER_ERROR, event)
    tokens = int(event["tokens_predicted"])
    scores = event.get("completion_probabilities", ())
    ended = event["stop"]
    if not ended and event.get("tokens", [None])[-1:] and event["tokens"][-1] in stop_ids:
        return Heard("", tokens - 1, finish="stop")
    if not ended:
        scored = () if alternatives is None else _scored(scores, alternatives)
        return Heard(event["content"], tokens, scored)
    by_id = event["stop_type"] == "eos"
    return Heard(
        event["content"],
        tokens - by_id,
        finish="length" if event["stop_type"] == "limit" else "stop",
        cached=int(event.get("timings", {}).get("cache_n", 0)),
    )


def refusal(status: int, said: dict[str, Any]) -> RefusedError:
    """Return llama-server's error as ours."""
    error = said.get("error", {})
    too_long = error.get("type") == "exceed_context_size_error"
    fault = status == BAD_REQUEST
    return RefusedError(
        BAD_REQUEST if fault else SERVER_ERROR,
        f"llama-server: {error.get('message', 'it does not say why')}",
        reason=("context_length_exceeded" if too_long else "invalid_value") if fault else None,
    )


def _form(asked: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """Return what the answer must keep to."""
    if asked.grammar is not None:
        return {"grammar": asked.grammar}
    form = asked.response_format if isinstance(asked, ChatRequest) else None
    if isinstance(form, JsonSchemaFormat):
        return {"json_schema": form.json_schema.schema}
    return {"json_schema": {"type": "object"}} if isinstance(form, JsonObjectFormat) else {}


def _scored(said: list[dict[str, Any]], alternatives: int) -> tuple[Scored, ...]:
    # Only here, for it needs numpy, which is more memory than all the rest of this worker.
    from slmops.daemon.scores import FLOOR, Scored  # noqa: PLC0415

    def pair(each: dict[str, Any]) -> tuple[str, float]:
        return each["token"], max(FLOOR, each["logprob"])

    return tuple(
        Scored(*pair(each), tuple(pair(other) for other in each["top_logprobs"][:alternatives]))
        for each in said
    )


def _cannot(what: str, param: str) -> RefusedError:
    return RefusedError(
        BAD_REQUEST, f"an adopted llama-server cannot {what}", reason="unsupported", param=param
    )

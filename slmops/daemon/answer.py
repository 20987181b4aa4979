"""The shapes of answers: OpenAI's.

Pure. It does not know the server, the clock or the model; requests' shapes are in `api`. A worker makes
with it the very bytes that a client gets: `Answer` knows the shapes, and `Telling` fills them from the
pieces of one answer, in one piece or as a stream.

Laws: the text of a stream's events joins to the text of the answer in one piece, and so do its calls and
its scores; what is told of usage is the same; of a call no markup is told as text.
"""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from slmops.daemon.tools import Call, Calls

if TYPE_CHECKING:
    from slmops.daemon.scores import Scored

Finish = Literal["stop", "length", "tool_calls"]
DONE = b"data: [DONE]\n\n"
NOWHERE = b"\0"
"""A byte that JSON never holds."""


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
        self,
        text: str,
        finish: Finish,
        usage: dict[str, Any],
        scored: Sequence[Scored] | None = None,
        calls: Sequence[Call] = (),
    ) -> bytes:
        """Return the answer in one piece; `scored` are its tokens, where that was asked for."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if calls:
                message = {**message, "content": text or None, "tool_calls": self._called(calls)}
            said = {"message": message}
        choice = {"index": 0, **said, "logprobs": self._scores(scored), "finish_reason": finish}
        kind = "chat.completion" if self.chat else "text_completion"
        return msgspec.json.encode({**self._envelope(kind), "choices": [choice], "usage": usage})

    def opening(self) -> Iterator[bytes]:
        """Yield what a stream begins with: in a chat, who speaks."""
        if self.chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def piece(self, text: str, scored: Sequence[Scored] | None = None, offset: int = 0) -> bytes:
        """Return one piece of a stream; the characters of all scored tokens before it are `offset`."""
        if scored is None:
            before, after = self._around
            return before + msgspec.json.encode(text) + after
        return self._chunk(self._said(text), None, self._scores(scored, offset))

    def called(self, calls: Sequence[Call], before: int) -> bytes:
        """Return the piece of a stream that tells of `calls`, when `before` were told of already."""
        return self._chunk({"delta": {"tool_calls": self._called(calls, before, indexed=True)}}, None)

    def closing(self, finish: Finish, usage: dict[str, Any]) -> Iterator[bytes]:
        """Yield what a stream ends with."""
        yield self._chunk({"delta": {}} if self.chat else {"text": ""}, finish)
        if self.usage_wanted:
            yield _event({**self._envelope(self._kind), "choices": [], "usage": usage})
        yield DONE

    @cached_property
    def _around(self) -> tuple[bytes, bytes]:
        """What stands before and after the text of a piece: made once, for there are hundreds a second."""
        before, _, after = self._chunk(self._said(msgspec.Raw(NOWHERE)), None).partition(NOWHERE)
        return before, after

    def _said(self, text: str | msgspec.Raw) -> dict[str, Any]:
        return {"delta": {"content": text}} if self.chat else {"text": text}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, said: dict[str, Any], finish: Finish | None, scores: Any = None) -> bytes:
        choice = {"index": 0, **said, "logprobs": scores, "finish_reason": finish}
        usage = {"usage": None} if self.usage_wanted else {}
        return _event({**self._envelope(self._kind), "choices": [choice], **usage})

    def _scores(self, scored: Sequence[Scored] | None, offset: int = 0) -> dict[str, list[Any]] | None:
        if scored is None:
            return None
        return _content(scored) if self.chat else _columns(scored, offset)

    def _called(
        self, calls: Sequence[Call], before: int = 0, *, indexed: bool = False
    ) -> list[dict[str, Any]]:
        """Return calls as clients know them; their ids follow from the answer's own."""
        return [
            {
                **({"index": index} if indexed else {}),
                "id": f"call_{self.id[-12:]}{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(calls, before)
        ]

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.release,
            "system_fingerprint": self.digest or None,
        }


class Telling:
    """Tells one answer as it comes: each piece goes in by `add`, the end by `end`."""

    def __init__(
        self,
        answer: Answer,
        *,
        stream: bool,
        scores: bool = False,
        echoed: str = "",
        calls: Calls | None = None,
    ) -> None:
        """`echoed` stands before the text; `calls` reads the calls in it, where tools are offered."""
        self._answer, self._stream, self._wants_scores = answer, stream, scores
        self._calls = calls
        self._text = [echoed]
        self._scored: list[Scored] = []
        self._called: list[Call] = []
        self._offset = 0
        """Characters of the scored tokens that a stream told of."""
        self._opened = False

    @property
    def text(self) -> str:
        """Return what was told so far, calls left out."""
        return "".join(self._text)

    def add(self, text: str, scored: Sequence[Scored] = ()) -> bytes:
        """Take more of the answer; return a stream's next events, nothing for an answer in one piece."""
        said, calls = self._calls.push(text) if self._calls else (text, [])
        return self._tell(said, calls, scored)

    def end(self, finish: Literal["stop", "length"], usage: dict[str, Any]) -> bytes:
        """Take the end; return a stream's last events, or the body. See also `finish`."""
        said, calls = self._calls.flush() if self._calls else ("", [])
        events = self._tell(said, calls, ())
        how = self.finish(finish)
        if self._stream:
            return events + b"".join(self._answer.closing(how, usage))
        scored = self._scored if self._wants_scores else None
        return self._answer.whole(self.text, how, usage, scored, self._called)

    def finish(self, finish: Literal["stop", "length"]) -> Finish:
        """Return how an answer ends that the model ended so: with its calls, if it made any."""
        return "tool_calls" if self._called and finish == "stop" else finish

    def _tell(self, said: str, calls: Sequence[Call], scored: Sequence[Scored]) -> bytes:
        self._text.append(said)
        before, offset = len(self._called), self._offset
        self._called += calls
        if not self._stream:
            self._scored += scored
            return b""
        self._offset += sum(len(each.text) for each in scored)
        events = [] if self._opened else list(self._answer.opening())
        self._opened = True
        if said or scored:
            events.append(self._answer.piece(said, scored if self._wants_scores else None, offset))
        if calls:
            events.append(self._answer.called(calls, before))
        return b"".join(events)


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


def embedded(vectors: Sequence[Sequence[float]], *, release: str, tokens: int, packed: bool = False) -> bytes:
    """Return the answer of /v1/embeddings; `packed` writes a vector as base64 of little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": release, "usage": counts})


def usage(prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """Return the counts as OpenAI names them; cached are those of the prompt that had been read before."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def _columns(scored: Sequence[Scored], offset: int) -> dict[str, list[Any]]:
    """Return the scores of a completion: a column for each thing that is said of a token."""
    sizes = [len(each.text) for each in scored]
    return {
        "tokens": [each.text for each in scored],
        "token_logprobs": [each.logprob for each in scored],
        # Of two tokens that are written alike the likelier one counts; it comes first.
        "top_logprobs": [dict(reversed(each.top)) if each.top else None for each in scored],
        "text_offset": list(itertools.accumulate(sizes[:-1], initial=offset))[: len(sizes)],
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


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(said) + b"\n\n"

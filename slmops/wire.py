"""What an operator and a device say to each other: JSON, one message a line.

The operator writes request lines to the agent's standard input; a request whose `said` has a `length`
is followed by exactly so many raw bytes. The agent answers each with replies, one a line after a
record separator (RFC 7464), so that whatever a login shell prints around them is noise and nothing more.
Both sides speak every protocol from LEAST to PROTOCOL, and use the newest that both know; `hello` is
answered in any, since it is how they find out.

Laws: `parse_reply(render_reply(r)) == r`, and noise never parses; no bytes make a parser raise anything
but DeviceError or ProtocolError; two sides agree on what they share.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from slmops.errors import DeviceError, ProtocolError

PROTOCOL = 2
"""The newest protocol that this slmops speaks."""
LEAST = 2
"""The oldest one."""
GREETING = "hello"
LINE_BYTES = 32 << 20
"""The longest line either side reads; one that does not end is no message."""
MARK = "\x1e"
CHUNK_DIGITS = 32
"""Hexadecimal digits of a chunk's sha256 that are compared; at the end the whole file's counts."""
FROM_AGENT = "x-slmops-agent"
"""HTTP header of what the agent asks its daemon, as golden prompts: no sample of what users ask."""
PASSAGE = "SLMOPS_PASSAGE"
"""Names to a router where it takes up idle connections of the one before, and where it leaves its own."""
DISK_RESERVE = 64 << 20
"""Bytes of disk that a device keeps free for its system: the operator looks first, the agent insists."""


@dataclass(frozen=True)
class Request:
    """What the agent is asked to do."""

    verb: str
    said: dict[str, Any] = field(default_factory=dict)
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Reply:
    """One line of an answer: `note` while it goes on, then `done` or `failed` once."""

    kind: str
    said: dict[str, Any] = field(default_factory=dict)


def render_request(request: Request) -> bytes:
    """Return the request as one line."""
    whole = {"protocol": request.protocol, "verb": request.verb, "said": request.said}
    return json.dumps(whole).encode() + b"\n"


def parse_request(line: bytes) -> Request:
    """Read a request line; raise DeviceError when it is none, ProtocolError when no agent here speaks so."""
    try:
        whole = json.loads(line)
        request = Request(verb=whole["verb"], said=whole["said"], protocol=whole["protocol"])
        _require(request.verb, request.said)
        understood = request.verb == GREETING or LEAST <= request.protocol <= PROTOCOL
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DeviceError(f"not a request: {line[:80]!r}") from error
    if not understood:
        raise ProtocolError(f"the agent speaks {_range(LEAST, PROTOCOL)}, the operator {request.protocol}")
    return request


def body_length(request: Request) -> int:
    """Return how many raw bytes follow a request; raise DeviceError when what it says is no number."""
    length = request.said.get("length", 0)
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise DeviceError(f"{request.verb}: expected a length in bytes, got {str(length)[:40]!r}")
    return length


def shared(least: int, newest: int) -> int | None:
    """Return the newest protocol that this side shares with one that speaks `least` to `newest`."""
    both = min(PROTOCOL, newest)
    return both if both >= max(LEAST, least) else None


def newer(version: str, than: str) -> bool:
    """Say whether a version of slmops is newer than another, by its numbers."""
    return _numbers(version) > _numbers(than)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"[0-9]+", version.partition("+")[0])]


def _range(least: int, newest: int) -> str:
    return f"protocol {newest}" if least == newest else f"protocols {least} to {newest}"


def render_reply(reply: Reply) -> str:
    """Return the reply as one marked line."""
    return MARK + json.dumps({"kind": reply.kind, "said": reply.said}, ensure_ascii=True) + "\n"


def parse_reply(line: str) -> Reply | None:
    """Read one line of output: a reply, or None for noise."""
    _, mark, rest = line.rpartition(MARK)
    if not mark:
        return None
    try:
        whole = json.loads(rest)
        _require(whole["kind"], whole["said"])
        return Reply(kind=whole["kind"], said=whole["said"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _require(word: Any, said: Any) -> None:
    if not isinstance(word, str) or not isinstance(said, dict):
        raise TypeError("expected a word and an object")

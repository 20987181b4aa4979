"""What an operator and a device say to each other: JSON, one message a line.

The operator writes one request line (and, for `receive`, raw bytes after it) to the agent's
standard input. The agent answers with replies, each on its own line after a record separator
(RFC 7464), so that whatever a login shell prints around them is noise and nothing more.

Law: `parse_reply(render_reply(r)) == r`, and noise never parses.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from slmops.errors import DeviceError

PROTOCOL = 1
MARK = "\x1e"
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
    """Read a request line; raise DeviceError when it is none or of another protocol."""
    try:
        whole = json.loads(line)
        request = Request(verb=whole["verb"], said=whole["said"], protocol=whole["protocol"])
        _require(request.verb, request.said)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DeviceError(f"not a request: {line[:80]!r}") from error
    if request.protocol != PROTOCOL:
        raise DeviceError(
            f"the agent speaks protocol {PROTOCOL}, the operator {request.protocol}",
            remedy="Deploy with the slmops that pushed the agent, or let the newer one push its own.",
        )
    return request


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

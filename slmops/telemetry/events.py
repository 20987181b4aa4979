"""What a device reports of itself: one frozen event per finished request, one JSON line each.

It does not know where the lines are kept, and holds numbers only: no prompt, no answer, no user.

Law: `parse(render(e)) == e`.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from slmops.errors import DocumentError

KIND = "request"


@dataclass(frozen=True)
class RequestFinished:
    """One request that the daemon has done with, answered or refused."""

    time: float
    """When it finished, in seconds since the epoch, by the device's clock."""
    release: str
    """`name:version`."""
    digest: str
    """Digest of the artifact that answered; empty when the daemon was not told."""
    status: int
    """HTTP status; 499 when the client left before the end."""
    prompt_tokens: int
    output_tokens: int
    first_token_seconds: float | None
    """From arrival to the first token, waiting included; None when there was no token."""
    seconds: float
    """From arrival to the end."""


_TYPES: dict[str, Any] = {
    "time": (int, float),
    "release": str,
    "digest": str,
    "status": int,
    "prompt_tokens": int,
    "output_tokens": int,
    "first_token_seconds": (int, float, type(None)),
    "seconds": (int, float),
}


def render(event: RequestFinished) -> str:
    """Return the event as one line of JSON, without the newline."""
    return json.dumps({"event": KIND, **asdict(event)}, separators=(",", ":"))


def parse(line: str) -> RequestFinished:
    """Read one line; raise DocumentError when it is not an event of this kind."""
    try:
        said: Any = json.loads(line)
    except ValueError as error:
        raise DocumentError(f"event: not JSON: {error}") from error
    if not isinstance(said, dict) or said.pop("event", None) != KIND:
        raise DocumentError(f"event: expected an object with 'event': {KIND!r}, got {line[:60]!r}")
    if set(said) != set(_TYPES):
        odd = ", ".join(sorted(set(said) ^ set(_TYPES)))
        raise DocumentError(f"event: keys missing or unknown: {odd}")
    for key, kind in _TYPES.items():
        if not isinstance(said[key], kind) or isinstance(said[key], bool):
            raise DocumentError(f"event: {key}: unexpected value {said[key]!r}")
    return RequestFinished(**said)

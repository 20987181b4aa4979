"""What a device reports of itself: one frozen event per finished request, one JSON line each.

It does not know where the lines are kept, and holds numbers only: no prompt, no answer, no user.

Laws: `parse(render(e)) == e` and `unpack(pack(es)) == es`; a line from before there were labels and kinds is
read, with both empty.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
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
    """None of either of an answer that was given again, from the cache."""
    first_token_seconds: float | None
    """From arrival to the first token, waiting included; None when no token was computed."""
    seconds: float
    """From arrival to the end."""
    label: str = ""
    """What the version that answered was called then: current, previous, candidate; empty for none."""
    kind: str = ""
    """What was asked for: chat, completion, embeddings, classify; empty where it did not come so far."""


_TYPES: dict[str, Any] = {
    "time": (int, float),
    "release": str,
    "digest": str,
    "status": int,
    "prompt_tokens": int,
    "output_tokens": int,
    "first_token_seconds": (int, float, type(None)),
    "seconds": (int, float),
    "label": str,
    "kind": str,
}
_LATER = {"label": "", "kind": ""}
"""Keys that older lines lack, and what they say then."""


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
    said = {**_LATER, **said}
    if set(said) != set(_TYPES):
        odd = ", ".join(sorted(set(said) ^ set(_TYPES)))
        raise DocumentError(f"event: keys missing or unknown: {odd}")
    for key, kind in _TYPES.items():
        if not isinstance(said[key], kind) or isinstance(said[key], bool):
            raise DocumentError(f"event: {key}: unexpected value {said[key]!r}")
    return RequestFinished(**said)


def pack(events: Iterable[tuple[int, RequestFinished]]) -> dict[str, Any]:
    """Return numbered events as an object for JSON that says everything once: {served, events}.

    `served` is a list of [release, digest, label, kind]; an event [number, time, which of them, status,
    prompt_tokens, output_tokens, first_token_seconds, seconds].
    """
    served: dict[tuple[str, str, str, str], int] = {}
    rows = [
        [
            number,
            event.time,
            served.setdefault((event.release, event.digest, event.label, event.kind), len(served)),
            event.status,
            event.prompt_tokens,
            event.output_tokens,
            event.first_token_seconds,
            event.seconds,
        ]
        for number, event in events
    ]
    return {"served": [list(each) for each in served], "events": rows}


def unpack(said: dict[str, Any]) -> list[tuple[int, RequestFinished]]:
    """Read what `pack` made; raise DocumentError when it is something else."""
    try:
        return [_unpacked(said["served"], *row) for row in said["events"]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DocumentError(f"events: not as a device tells them: {error!r}") from error


def _unpacked(
    served: list[Any], number: int, time: float, which: int, *rest: Any
) -> tuple[int, RequestFinished]:
    release, digest, label, kind = served[which]
    status, prompt_tokens, output_tokens, first_token_seconds, seconds = rest
    event = RequestFinished(
        time, release, digest, status, prompt_tokens, output_tokens, first_token_seconds, seconds, label, kind
    )
    # What a device says is checked as a line of it is.
    return int(number), parse(render(event))

"""What the daemon writes down of itself: lines for a person, or one JSON object a line for a machine.

It does not know where the lines go but that it is a stream. Laws: a line holds what its place in the code
says and the fields of `FIELDS`, never a prompt, an answer or a key; of an error that is none of ours it
tells the kind and where it was raised, not its words, for those may quote what a client sent; a line is a
line, whatever it says.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from typing import Any, Literal, TextIO

from slmops.errors import SlmopsError
from slmops.telemetry.events import RequestFinished

Form = Literal["text", "json"]
HEADER = "x-request-id"
FIELDS = (
    *("request", "key", "release", "digest", "label", "kind", "status", "prompt_tokens", "output_tokens"),
    *("first_token_seconds", "seconds", "pid", "exit_code", "crashes", "reason"),
)
"""Names that a caller may give with `extra`, in the order in which they are told; no other is."""
_WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_ODD = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")
SERVER_ERROR = 500
requests = logging.getLogger("slmops.requests")


def begin(form: Form, stream: TextIO = sys.stderr) -> None:
    """Write all records of this process to `stream` from now on, in that form.

    For a machine every request is a line; for a person those that failed by our doing.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    requests.setLevel(logging.INFO if form == "json" else logging.WARNING)


def request_id(given: str | None) -> str:
    """Return the id by which a request is known: the one the client gave, if it is fit to be one."""
    return given if given and _WELL_FORMED.fullmatch(given) else uuid.uuid4().hex


def finished(event: RequestFinished, request: str, key: str) -> None:
    """Record a finished request; `key` is the name of the caller's key, empty without one."""
    level = logging.WARNING if event.status >= SERVER_ERROR else logging.INFO
    if not requests.isEnabledFor(level):
        return
    told = {
        "request": request,
        "key": key,
        "release": event.release,
        "digest": event.digest,
        "label": event.label,
        "kind": event.kind,
        "status": event.status,
        "prompt_tokens": event.prompt_tokens,
        "output_tokens": event.output_tokens,
        "first_token_seconds": _rounded(event.first_token_seconds),
        "seconds": _rounded(event.seconds),
    }
    requests.log(level, "request finished", extra=told)


class Lines(logging.Formatter):
    """Records for a person: when, how grave, what, and what else there is to say."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        words = [_time(record.created), record.levelname, record.getMessage()]
        words += [f"{key}={value}" for key, value in _fields(record).items()]
        return _ODD.sub(" ", " ".join(words))


class JsonLines(logging.Formatter):
    """Records for a machine."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object on one line."""
        told = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        return json.dumps({**told, **_fields(record)}, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    there = {key: getattr(record, key, None) for key in FIELDS}
    told = {key: value for key, value in there.items() if value not in (None, "")}
    if record.exc_info and record.exc_info[1] is not None:
        told |= _error(record.exc_info[1])
    return told


def _error(error: BaseException) -> dict[str, Any]:
    """Return what an error was, and the way to it: file, line and function, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    way = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)
    words = {"message": str(error)} if isinstance(error, SlmopsError) else {}
    return {"error": type(error).__name__, **words, "way": way}


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)

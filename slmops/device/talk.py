"""Talk to the daemon on this device, over loopback HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from slmops.device import limit
from slmops.device.places import Places
from slmops.device.ready import connect
from slmops.device.ready import port as port  # noqa: PLC0414 - asked here by those who talk
from slmops.device.ready import ready as ready  # noqa: PLC0414 - as above
from slmops.errors import DeviceError
from slmops.wire import FROM_AGENT

ODD = (AttributeError, IndexError, KeyError, TypeError)
"""What reading an answer raises that has another shape than a daemon's of ours."""


REASON = 300
"""Letters of why a daemon refuses that are passed on."""


class UnansweredError(DeviceError):
    """The daemon answered with another status than 200."""

    code = "SLM-DAEMON"

    def __init__(self, status: int, said: dict[str, Any]) -> None:
        """Refuse with what the daemon said."""
        super().__init__(f"the daemon refused ({status}): {_reason(said)}")
        self.status = status


@dataclass(frozen=True)
class Spoken:
    """An answer, and how long it took."""

    text: str
    tokens: int
    first: float
    """Seconds to the first piece of text; of an answer without any, to its end."""
    seconds: float


def timed(places: Places, path: str, body: dict[str, Any], timeout: float) -> Spoken:
    """Ask and return the whole answer with its times; raise DeviceError when there is none."""
    began = time.monotonic()
    text, first, tokens, pieces = "", None, 0, 0
    asked = {**body, "stream_options": {"include_usage": True}}
    for said in _events(_connect(places, timeout), path, asked):
        for choice in said["choices"]:
            piece = _text(choice, "delta")
            pieces += bool(piece)
            text += piece
        if text and first is None:
            first = time.monotonic() - began
        tokens = (said.get("usage") or {}).get("completion_tokens", pieces)
    seconds = time.monotonic() - began
    return Spoken(text, tokens, seconds if first is None else first, seconds)


def scores(places: Places, body: dict[str, Any], timeout: float) -> list[float | None]:
    """Return the log-probability of each token; raise DeviceError when the daemon tells none."""
    choice = _asked(places, "/v1/completions", body, timeout)["choices"][0]
    found = (choice.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(found, list):
        raise DeviceError("the daemon told no log-probabilities")
    return found


def classify(places: Places, text: str, timeout: float, model: str | None = None) -> str:
    """Return the label a classifier gives to `text`; raise DeviceError when there is none.

    `model` names the version; without it, the one that serves is asked.
    """
    body = {"input": text} if model is None else {"input": text, "model": model}
    return str(_asked(places, "/v1/classify", body, timeout)["data"][0]["label"])


def _asked(places: Places, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    try:
        status, said = _call(places, "POST", path, body, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeviceError(f"the daemon did not answer: {error}") from error
    if status != HTTPStatus.OK:
        raise UnansweredError(status, said)
    return said


def stream(places: Places, path: str, body: dict[str, Any], timeout: float) -> Iterator[str]:
    """Ask and yield the answer as it comes; `timeout` is how many seconds the model may be silent."""
    for said in _events(_connect(places, timeout, patient=True), path, body):
        for choice in said["choices"]:
            yield _text(choice, "delta")


def _events(
    connection: http.client.HTTPConnection, path: str, body: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Ask for a stream and yield its events; raise DeviceError when it does not come to its end."""
    try:
        _send(connection, "POST", path, {**body, "stream": True})
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            raise UnansweredError(response.status, json.loads(response.read()))
        for line in response:
            event = line.decode().strip()
            if event == "data: [DONE]":
                return
            if event.startswith("data: "):
                yield _whole(json.loads(event[len("data: ") :]))
        raise DeviceError("the daemon broke off in the middle of its answer")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeviceError(f"the daemon broke off: {error}") from error
    finally:
        connection.close()


def _whole(said: dict[str, Any]) -> dict[str, Any]:
    if "choices" not in said:
        raise DeviceError(f"the daemon broke off: {_reason(said)}")
    return said


def question(said: dict[str, Any], *, chat: bool) -> tuple[str, dict[str, Any]]:
    """Return the path and body for a prompt or messages.

    A bare prompt goes to the chat of a model that has one, unless `raw` is set.
    """
    body = {key: said[key] for key in ("max_tokens", "temperature", "seed") if said.get(key) is not None}
    messages = said.get("messages")
    if messages is None and chat and said.get("prompt") is not None and not said.get("raw"):
        messages = [{"role": "user", "content": said["prompt"]}]
    if messages is not None:
        return "/v1/chat/completions", {**body, "messages": messages}
    return "/v1/completions", {**body, "prompt": said["prompt"]}


class _Connection(http.client.HTTPConnection):
    """A connection to the daemon, waited for no longer than its timeout."""

    def __init__(self, places: Places, timeout: float, *, patient: bool) -> None:
        super().__init__("127.0.0.1", timeout=timeout)
        self._places, self._patient = places, patient

    def connect(self) -> None:
        """Connect; the time counts from here, or if `patient` from each piece that comes."""
        line = connect(self._places, float(self.timeout or 0))
        self.sock = limit.unbounded(line) if self._patient else line


def _connect(places: Places, timeout: float, *, patient: bool = False) -> http.client.HTTPConnection:
    """Return a connection with `timeout` seconds for all, or if `patient` for each piece that comes."""
    if port(places) is None:
        raise DeviceError("the daemon does not listen yet", remedy="See `slmops device logs`.")
    return _Connection(places, timeout, patient=patient)


def _call(
    places: Places, method: str, path: str, body: dict[str, Any] | None, timeout: float
) -> tuple[int, dict[str, Any]]:
    connection = _connect(places, timeout)
    try:
        _send(connection, method, path, body)
        response = connection.getresponse()
        said = json.loads(response.read())
        if not isinstance(said, dict):
            raise ValueError(f"no JSON object: {str(said)[:60]}")  # noqa: TRY004 - as JSON has it
        return response.status, said
    finally:
        connection.close()


def _send(
    connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
) -> None:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", FROM_AGENT: "1"}
    connection.request(method, path, body=data, headers=headers)


def _text(choice: dict[str, Any], chat_key: str) -> str:
    if chat_key in choice:
        return choice[chat_key].get("content") or ""
    return choice.get("text") or ""


def _reason(said: dict[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("message") if isinstance(error, dict) else error or said)[:REASON]

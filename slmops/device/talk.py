"""Talk to the daemon on this device, over loopback HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from slmops.device.places import Places
from slmops.errors import DeviceError


def port(places: Places) -> int | None:
    """Return the port the daemon listens on, once it does."""
    try:
        return int(places.port.read_text())
    except (FileNotFoundError, ValueError):
        return None


def ready(places: Places) -> dict[str, Any] | None:
    """Return what the daemon says of itself when it is ready to answer, else None."""
    try:
        status, said = _call(places, "GET", "/readyz", None, timeout=5.0)
    except (DeviceError, OSError, http.client.HTTPException, ValueError):
        return None
    return said if status == HTTPStatus.OK and said.get("ready") is True else None


def complete(places: Places, path: str, body: dict[str, Any], timeout: float) -> str:
    """Ask and return the whole answer; raise DeviceError when there is none."""
    return _text(_asked(places, path, body, timeout)["choices"][0], "message")


def classify(places: Places, text: str, timeout: float) -> str:
    """Return the label a classifier gives to `text`; raise DeviceError when there is none."""
    return str(_asked(places, "/v1/classify", {"input": text}, timeout)["data"][0]["label"])


def _asked(places: Places, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    try:
        status, said = _call(places, "POST", path, body, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeviceError(f"the daemon did not answer: {error}") from error
    if status != HTTPStatus.OK:
        raise DeviceError(f"the daemon refused ({status}): {_reason(said)}")
    return said


def stream(places: Places, path: str, body: dict[str, Any], timeout: float) -> Iterator[str]:
    """Ask and yield the answer as it comes."""
    connection = _connect(places, timeout)
    try:
        _send(connection, "POST", path, {**body, "stream": True})
        response = connection.getresponse()
        if response.status != HTTPStatus.OK:
            raise DeviceError(
                f"the daemon refused ({response.status}): {_reason(json.loads(response.read()))}"
            )
        for line in response:
            event = line.decode().strip()
            if event == "data: [DONE]":
                return
            if event.startswith("data: "):
                yield from _pieces(json.loads(event[len("data: ") :]))
        raise DeviceError("the daemon broke off in the middle of its answer")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeviceError(f"the daemon broke off: {error}") from error
    finally:
        connection.close()


def _pieces(said: dict[str, Any]) -> Iterator[str]:
    if "choices" not in said:
        raise DeviceError(f"the daemon broke off: {_reason(said)}")
    for choice in said["choices"]:
        yield _text(choice, "delta")


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


def _connect(places: Places, timeout: float) -> http.client.HTTPConnection:
    number = port(places)
    if number is None:
        raise DeviceError("the daemon does not listen yet", remedy="See `slmops device logs`.")
    return http.client.HTTPConnection("127.0.0.1", number, timeout=timeout)


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
    connection.request(method, path, body=data, headers={"Content-Type": "application/json"})


def _text(choice: dict[str, Any], chat_key: str) -> str:
    if chat_key in choice:
        return choice[chat_key].get("content") or ""
    return choice.get("text") or ""


def _reason(said: dict[str, Any]) -> str:
    error = said.get("error")
    return str(error.get("message") if isinstance(error, dict) else error or said)

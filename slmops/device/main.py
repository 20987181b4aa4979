"""The commands a device understands.

    python3 agent.pyz ROOT serve     request lines on standard input, replies on standard output
    python3 agent.pyz ROOT VERB      one request, and the exit code says how it ended
    python3 agent.pyz ROOT install DIR [NAME]    what somebody brought in a folder: `install_bundle`
    python3 agent.pyz ROOT status                and what else a person may type: `by_hand`

`supervise` alone takes no request: it is what systemd, or `service`, starts.
Law: a verb reads its own module and what that needs, and no other; a slow device starts an agent often.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops import __version__, wire
from slmops.device import line
from slmops.device.disk import FREE_SOME
from slmops.device.places import Places
from slmops.errors import DeviceError, DoesNotFitError, ProtocolError, SlmopsError
from slmops.wire import Reply

Handler = Callable[[Places, "dict[str, Any]"], "dict[str, Any]"]

WORDS = 2
"""Words that every call has: where the agent's folder is, and what to do."""

VERBS = {
    "hello": "greet.hello",
    "enroll": "greet.enroll",
    "prepare": "prepare.prepare",
    "compare": "receive.compare",
    "receive": "receive.receive",
    "patch": "patch.patch",
    "stage": "stage.stage",
    "activate": "commands.activate",
    "confirm": "commands.confirm",
    "roll-back": "commands.roll_back",
    "status": "report.status",
    "ask": "commands.ask",
    "logs": "logs.logs",
    "gc": "collect.gc",
    "fsck": "fsck.fsck",
    "probe": "probe.probe",
    "start": "service.start",
    "update-self": "renew.update_self",
    "retire": "commands.retire",
    "lease": "hold.lease",
    "forgive": "shun.forgive",
    "telemetry": "telemetry.telemetry",
    "samples": "telemetry.samples",
    "keys": "keys.keys",
}
"""Where in this room each verb's handler is, as module.function: `handler(places, said) -> answer`.

A handler that tells something meanwhile says `line.note({...})`; one that takes raw bytes reads `line.read`.
"""

CHANGING = {
    *("enroll", "prepare", "compare", "receive", "patch", "stage", "activate", "confirm", "roll-back"),
    *("gc", "fsck", "update-self", "retire"),
}
"""Verbs that change what a rollout counts on: `hold` is asked before them."""

BYTES = {"compare", "receive", "patch"}
"""Those of them that change nothing a status tells."""

HANDS = ("status", "logs", "fsck", "retire")
"""Verbs that a person at the device may type, who sends no request."""


def main(words: list[str]) -> int:
    """Answer requests; return the exit code."""
    if len(words) < WORDS:
        return _by_hand(Places(Path()), ["--help"])
    root, verb = Path(words[0]).absolute(), words[1]
    os.umask(0o077)
    places = Places(root)
    # What a process that is killed leaves behind lies within the device's own folder.
    os.environ["TMPDIR"] = str(places.run)
    if verb == "supervise":
        importlib.import_module("slmops.device.supervise").run(places)
        return 0
    if verb == "install":
        return int(importlib.import_module("slmops.device.install_bundle").main(places, words[2:]))
    if sys.stdin.isatty():
        return _by_hand(places, words[1:])
    line.open_up()
    return _serve(places) if verb == "serve" else _once(places, words[1:])


def _once(places: Places, words: list[str]) -> int:
    """Answer the one request there is, or a person, who sends none."""
    said = line.hear()
    if not said and (words[0] in HANDS or words[0] not in VERBS):
        return _by_hand(places, words)
    return _answer(places, said)


def _serve(places: Places) -> int:
    # An operator who is gone hears no answer; what was done stays done.
    with suppress(BrokenPipeError, TimeoutError):
        while said := line.hear():
            _answer(places, said)
            if not line.settle():
                break
    return 0


def _by_hand(places: Places, words: list[str]) -> int:
    return int(importlib.import_module("slmops.device.by_hand").main(places, words))


def _answer(places: Places, said: bytes) -> int:
    reply, code = _answered(places, said)
    line.tell(reply)
    return code


def _answered(places: Places, said: bytes) -> tuple[Reply, int]:
    verb = ""
    try:
        request = wire.parse_request(said)
        verb = request.verb
        line.expect(request)
        return Reply("done", _handle(places, request)), 0
    except SlmopsError as error:
        return _refusal(error), error.exit_code
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DoesNotFitError if full else DeviceError
        return _refusal(kind(f"{verb}: {error}", remedy=FREE_SOME if full else "")), kind.exit_code


def _handle(places: Places, request: wire.Request) -> dict[str, Any]:
    if request.verb not in VERBS:
        raise DeviceError(f"the agent {__version__} does not know the verb {request.verb!r}")
    module, _, name = VERBS[request.verb].partition(".")
    handler: Handler = getattr(importlib.import_module(f"slmops.device.{module}"), name)
    try:
        if request.verb not in CHANGING:
            return handler(places, request.said)
        hold = importlib.import_module("slmops.device.hold")
        try:
            with hold.held(places, request.verb, request.said) as answer:
                answer.update(handler(places, request.said))
            return dict(answer)
        finally:
            if request.verb not in BYTES:
                # What the supervisor keeps at hand for who looks is not so any more (`tell`). Where it cannot
                # be taken away nothing else could be written, and what a look found is told all the same.
                with suppress(OSError):
                    places.bulletin.unlink()
    except KeyError as error:
        raise DeviceError(
            f"{request.verb}: the request names no {error}, or one that is not there"
        ) from error


def _refusal(error: SlmopsError) -> Reply:
    told = {"code": error.code, "exit_code": error.exit_code, "message": str(error), "remedy": error.remedy}
    if isinstance(error, ProtocolError):
        told |= {"protocol": wire.PROTOCOL, "least": wire.LEAST}
    return Reply("failed", told)

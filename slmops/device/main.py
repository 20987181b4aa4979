"""The commands a device understands.

    python3 agent.pyz ROOT VERB     one request line on standard input, replies on standard output

`supervise` alone takes no request: it is what systemd, or `service`, starts.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmops import __version__, wire
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.device import activate, install, journal, service, slots, supervise, talk
from slmops.device.places import Places, write, write_json
from slmops.device.report import report
from slmops.errors import DeviceError, IntegrityError, SlmopsError
from slmops.wire import Reply, Request

Handler = Callable[[Places, "dict[str, Any]"], "dict[str, Any]"]


def main(words: list[str]) -> int:
    """Answer one request; return the exit code."""
    root, verb = Path(words[0]).absolute(), words[1]
    os.umask(0o077)
    places = Places(root)
    if verb == "supervise":
        supervise.run(places)
        return 0
    try:
        request = wire.parse_request(sys.stdin.buffer.readline())
        handler = VERBS.get(request.verb)
        if handler is None:
            raise DeviceError(f"the agent {__version__} does not know the verb {request.verb!r}")
        answer = _handle(handler, places, request)
    except SlmopsError as error:
        told = {
            "code": error.code,
            "exit_code": error.exit_code,
            "message": str(error),
            "remedy": error.remedy,
        }
        _tell(Reply("failed", told))
        return error.exit_code
    except OSError as error:
        told = {"code": DeviceError.code, "exit_code": 1, "message": f"{verb}: {error}", "remedy": ""}
        _tell(Reply("failed", told))
        return 1
    _tell(Reply("done", answer))
    return 0


def _handle(handler: Handler, places: Places, request: Request) -> dict[str, Any]:
    try:
        return handler(places, request.said)
    except KeyError as error:
        raise DeviceError(
            f"{request.verb}: the request names no {error}, or one that is not there"
        ) from error


def hello(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Say which agent this is, and make itself the one in force."""
    places.make()
    mine = "agent/" + Path(sys.argv[0]).name
    if not places.agent_link.is_symlink() or str(places.agent_link.readlink()) != mine:
        fresh = places.root / ".agent.new"
        if fresh.is_symlink():
            fresh.unlink()
        fresh.symlink_to(mine)
        fresh.replace(places.agent_link)
        service.nudge(places)
    return {"version": __version__, "protocol": wire.PROTOCOL, "python": platform.python_version()}


def enroll(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Learn the device's settings, and on first contact whose releases to accept."""
    signers = said["signers"]
    if not places.signers.exists():
        write(places.signers, signers.encode())
    elif places.signers.read_text() != signers:
        raise IntegrityError(
            "this device trusts another release key",
            remedy="Sign with the key it knows, or remove trust/allowed_signers in its directory by hand.",
        )
    settings = {key: said[key] for key in ("device", "profile", "runtime", "port", "service")}
    with journal.locked(places):
        write_json(places.config, settings)
    return {}


def prepare(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Verify a release and say what of it is missing here."""
    places.read_config()
    with journal.locked(places):
        return install.prepare(places, said)


def receive(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Take the bytes that follow the request as the rest of one file."""
    return install.receive(places, said, sys.stdin.buffer, lambda here: None)


def stage(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Make a slot of what was received."""
    with journal.locked(places):
        install.stage(places, said["slot"])
    return {"slot": said["slot"]}


def status(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Say where the device stands."""
    return report(places)


def ask(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon, passing the answer on as it comes; a classifier's is the label."""
    standing = journal.standing(places)
    if standing.slot is None:
        raise DeviceError("this device has no release", remedy="Run `slmops deploy`.")
    for text in _pieces(places, slots.description(places, standing.slot), said):
        _tell(Reply("note", {"text": text}))
    return {"release": slots.release(places, standing.slot).reference}


def _pieces(places: Places, description: Description, said: dict[str, Any]) -> Iterator[str]:
    if description.task == CLASSIFICATION:
        yield talk.classify(places, said["prompt"], said["timeout"])
        return
    path, body = talk.question(said, chat=description.chat_template is not None)
    yield from talk.stream(places, path, body, said["timeout"])


def logs(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Return the last lines of the daemon's log."""
    return {"lines": supervise.log_tail(places, said["lines"])}


def retire(places: Places, said: dict[str, Any]) -> dict[str, Any]:
    """Stop the daemon and remove everything this agent ever wrote, and nothing else."""
    with journal.locked(places):
        service.end(places)
        for path in places.own():
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.is_dir():
                slots.remove(path)
        with suppress(OSError):
            places.root.rmdir()
    return {}


def _note(said: dict[str, Any]) -> None:
    _tell(Reply("note", said))


def _tell(reply: Reply) -> None:
    sys.stdout.write(wire.render_reply(reply))
    sys.stdout.flush()


VERBS: dict[str, Handler] = {
    "hello": hello,
    "enroll": enroll,
    "prepare": prepare,
    "receive": receive,
    "stage": stage,
    "activate": lambda places, said: activate.activate(places, said, _note),
    "confirm": lambda places, said: activate.confirm(places, said["slot"]),
    "roll-back": lambda places, said: activate.roll_back(places, said, _note),
    "status": status,
    "ask": ask,
    "logs": logs,
    "retire": retire,
}

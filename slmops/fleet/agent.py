"""Speak with the agent of a device, pushing it where it is missing."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from slmops import wire
from slmops.errors import (
    DeviceError,
    DoesNotFitError,
    IntegrityError,
    MissingPartError,
    SlmopsError,
)
from slmops.fleet import commands
from slmops.fleet.agent_bundle import bundle
from slmops.fleet.ssh import Finished, Link
from slmops.wire import Reply, Request


class NoAgentError(DeviceError):
    """The device has never had an agent."""

    code = "SLM-NO-AGENT"


Note = Callable[[dict[str, Any]], None]


def _ignore(_said: dict[str, Any]) -> None:
    """Take no notes."""


KINDS: dict[str, type[SlmopsError]] = {
    kind.code: kind for kind in (DeviceError, DoesNotFitError, IntegrityError, MissingPartError)
}


def call(
    link: Link,
    verb: str,
    said: dict[str, Any] | None = None,
    *,
    data: Iterable[bytes] = (),
    note: Note = _ignore,
    silence: float = 60.0,
) -> dict[str, Any]:
    """Ask the agent for one verb and return its answer; its refusals come back as the errors they are.

    `data` follows the request as raw bytes; `note` is told what the agent says meanwhile.
    """
    request = wire.render_request(Request(verb, said or {}))
    answer, finished = _ask(link, verb, chain([request], data), note, silence)
    return _judge(link, answer, finished)


def _judge(link: Link, answer: Reply | None, finished: Finished) -> dict[str, Any]:
    """Return what the agent answered, or raise what its ending means."""
    if finished.code == commands.NO_PYTHON:
        raise DeviceError(f"{link.device.name} has no Python 3.9 or newer", remedy="apt-get install python3")
    if finished.code == commands.NO_AGENT:
        raise NoAgentError(
            f"{link.device.name} has no agent in {link.device.root}",
            remedy="Run `slmops deploy`: it brings one.",
        )
    if answer is None:
        raise DeviceError(
            f"{link.device.name}: the agent ended with exit code {finished.code} and no answer: "
            f"{finished.tail.strip()[-400:] or 'it said nothing'}"
        )
    if answer.kind == "failed":
        raise _error(link, answer.said)
    return answer.said


def greet(link: Link) -> dict[str, Any]:
    """See that this installation's agent is on the device and in force; return what it says of itself."""
    request = wire.render_request(Request("hello"))
    answer, finished = _ask(link, "hello", [request], _ignore, 60.0, tag=bundle().tag)
    if finished.code == commands.NO_AGENT:
        _push(link)
        answer, finished = _ask(link, "hello", [request], _ignore, 60.0, tag=bundle().tag)
    return _judge(link, answer, finished)


def _push(link: Link) -> None:
    agent = bundle()
    done = link.run(commands.push_agent(link.device.root, agent.tag), [agent.data])
    if done.code != 0:
        raise DeviceError(
            f"{link.device.name}: {link.device.root} cannot take the agent: {done.tail.strip()[-300:]}",
            remedy="Set `root` in the fleet file to a directory this user can write.",
        )


def _ask(
    link: Link, verb: str, feed: Iterable[bytes], note: Note, silence: float, *, tag: str | None = None
) -> tuple[Reply | None, Finished]:
    answers: list[Reply] = []

    def hear(line: str) -> None:
        reply = wire.parse_reply(line)
        if reply is not None and reply.kind == "note":
            note(reply.said)
        elif reply is not None:
            answers.append(reply)

    finished = link.run(commands.agent(link.device.root, verb, tag), feed, hear, silence)
    return (answers[-1] if answers else None), finished


def _error(link: Link, said: dict[str, Any]) -> SlmopsError:
    kind = KINDS.get(str(said.get("code")), DeviceError)
    remedy = said.get("remedy") or None
    return kind(f"{link.device.name}: {said.get('message')}", remedy=remedy)

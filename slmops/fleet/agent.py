"""Speak with the agent of a device: one question, or a session for a whole assignment.

It does not know what the verbs do. Laws: an agent that is newer than ours and shares a protocol with us is
used and never replaced; of one version the agent that a session brings is in force after it began; a session
that lost step begins anew before the next request.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slmops import __version__, wire
from slmops.errors import (
    DeferredError,
    DeviceError,
    DoesNotFitError,
    FencedError,
    IntegrityError,
    LockedError,
    MissingPartError,
    ProtocolError,
    QuarantinedError,
    SlmopsError,
)
from slmops.fleet import commands
from slmops.fleet.agent_bundle import bundle
from slmops.fleet.inventory import Device
from slmops.fleet.ssh import Finished, Link, Stream
from slmops.wire import Reply, Request


class NoAgentError(DeviceError):
    """The device has no agent, or one from before any protocol that this installation speaks."""

    code = "SLM-NO-AGENT"


class LostAgentError(DeviceError):
    """The agent on the device ended before it had answered."""

    code = "SLM-LOST-AGENT"


Note = Callable[[dict[str, Any]], None]


def _ignore(_said: dict[str, Any]) -> None:
    """Take no notes."""


KINDS: dict[str, type[SlmopsError]] = {
    kind.code: kind
    for kind in (
        DeferredError,
        DeviceError,
        DoesNotFitError,
        FencedError,
        IntegrityError,
        LockedError,
        MissingPartError,
        QuarantinedError,
    )
}


def call(
    link: Link,
    verb: str,
    said: dict[str, Any] | None = None,
    *,
    note: Note = _ignore,
    silence: float = 60.0,
) -> dict[str, Any]:
    """Ask the agent in force for one verb and return its answer; its refusals come back as errors.

    `note` is told what the agent says meanwhile; `silence` is how many seconds it may say nothing.
    """
    protocol, again = wire.PROTOCOL, False
    while True:
        with link.open(commands.agent(link.device.root, verb), silence) as stream:
            answer = _ask(stream, Request(verb, said or {}, protocol), (), note)
            stream.end()
            # Who refuses what it said it speaks is not asked a third time.
            if answer is None or again or answer.said.get("code") != ProtocolError.code:
                return _judge(link, answer, stream)
        protocol, again = _protocol(link, answer), True


def greet(link: Link) -> dict[str, Any]:
    """See that an agent this installation can speak with is in force; return what it says of itself."""
    with Session(link) as session:
        return session.agent


@contextmanager
def session(
    device: Device, trusted: tuple[Path, ...], lease: Mapping[str, Any] | None = None
) -> Iterator["Session"]:
    """Connect to a device, and hold a session with its agent; every request asks for `lease`, if given."""
    with Link(device, trusted) as link, Session(link, lease) as begun:
        yield begun


class Session:
    """One process of a device's agent, asked one thing after another. Use it in a `with`."""

    def __init__(self, link: Link, lease: Mapping[str, Any] | None = None) -> None:
        """Greet the agent in force, after bringing it where there is none or an older one."""
        self.link, self._lease = link, {"lease": dict(lease)} if lease else {}
        self._stream, self.agent = _begin(link)
        self._protocol = _protocol(link, Reply("done", self.agent))
        self._in_step = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the agent go."""
        self._stream.end()
        self._stream.close()

    def call(
        self,
        verb: str,
        said: dict[str, Any] | None = None,
        *,
        data: Iterable[bytes | memoryview] = (),
        note: Note = _ignore,
        silence: float = 60.0,
    ) -> dict[str, Any]:
        """Ask for one verb and return its answer; its refusals come back as the errors they are.

        `data` follows the request as exactly `said["length"]` raw bytes; an agent that refuses before it has
        read them gets no more. Raise LostAgentError when it ends, UnreachableError when the link breaks.
        """
        if not self._in_step:
            self._stream.close()
            self._stream, self.agent = _begin(self.link)
        self._in_step = False
        self._stream.bear(silence)
        owed = int((said or {}).get("length", 0))

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal owed
            for piece in data:
                owed -= len(piece)
                yield piece

        request = Request(verb, {**(said or {}), **self._lease}, self._protocol)
        answer = _ask(self._stream, request, counted(), note)
        self._in_step = answer is not None and owed == 0
        return _judge(self.link, answer, self._stream)


def _begin(link: Link) -> tuple[Stream, dict[str, Any]]:
    """Return a conversation with the agent in force, and what it said of itself."""
    stream, said = _hello(link, None)
    if said is not None and (said["tag"] == bundle().tag or wire.newer(said["version"], __version__)):
        return stream, said
    stream.close()
    stream, said = _hello(link, bundle().tag)
    if said is None:
        stream.close()
        _push(link)
        stream, said = _hello(link, bundle().tag)
    if said is None:
        with stream:
            raise _ended(link, stream.finish())
    return stream, said


def _hello(link: Link, tag: str | None) -> tuple[Stream, dict[str, Any] | None]:
    """Greet the agent in force, or that called `tag`; one that does not say who it is is as good as none."""
    stream = link.open(commands.agent(link.device.root, "serve", tag))
    answer = _ask(stream, Request(wire.GREETING), (), _ignore)
    if answer is None and (finished := stream.finish()).code == commands.NO_PYTHON:
        raise _ended(link, finished)
    if answer is None or answer.kind != "done" or not {"version", "tag", "least"} <= answer.said.keys():
        return stream, None
    return stream, answer.said


def _push(link: Link) -> None:
    agent = bundle()
    done = link.run(commands.push_agent(link.device.root, agent.tag), [agent.data])
    if done.code != 0:
        raise DeviceError(
            f"{link.device.name}: {link.device.root} cannot take the agent: {done.tail.strip()[-300:]}",
            remedy="Set `root` in the fleet file to a directory this user can write.",
        )


def _ask(stream: Stream, request: Request, data: Iterable[bytes | memoryview], note: Note) -> Reply | None:
    """Write a request and what follows it; return the answer, or None when the agent ends without one."""
    goes_on = stream.write(wire.render_request(request))
    for piece in data if goes_on else ():
        if stream.says() and (answer := _answer(stream, note, wait=False)):
            return answer
        if not stream.write(piece):
            break
    return _answer(stream, note, wait=True)


def _answer(stream: Stream, note: Note, *, wait: bool) -> Reply | None:
    """Read until the answer, or until nothing more is there to read."""
    while wait or stream.says():
        line = stream.line()
        reply = None if line is None else wire.parse_reply(line)
        if line is None or (reply is not None and reply.kind != "note"):
            return reply
        if reply is not None:
            note(reply.said)
    return None


def _judge(link: Link, answer: Reply | None, stream: Stream) -> dict[str, Any]:
    """Return what the agent answered, or raise what its ending means."""
    if answer is None:
        raise _ended(link, stream.finish())
    if answer.kind == "failed":
        raise _error(link, answer)
    return answer.said


def _ended(link: Link, finished: Finished) -> SlmopsError:
    name = link.device.name
    if finished.code == commands.NO_PYTHON:
        return DeviceError(f"{name} has no Python 3.9 or newer", remedy="apt-get install python3")
    if finished.code == commands.NO_AGENT:
        return NoAgentError(
            f"{name} has no agent in {link.device.root}", remedy="Run `slmops deploy`: it brings one."
        )
    return LostAgentError(
        f"{name}: the agent ended with exit code {finished.code} and no answer: "
        f"{finished.tail.strip()[-400:] or 'it said nothing'}"
    )


def _protocol(link: Link, answer: Reply) -> int:
    """Return the newest protocol shared with an agent that said what it speaks, else raise ProtocolError."""
    least, newest = (answer.said.get(key) for key in ("least", "protocol"))
    if not isinstance(least, int) or not isinstance(newest, int):
        raise _error(link, answer)
    protocol = wire.shared(least, newest)
    if protocol is None:
        theirs, ours = f"{least} to {newest}", f"{wire.LEAST} to {wire.PROTOCOL}"
        message = f"{link.device.name}: its agent speaks protocols {theirs}, this slmops {ours}"
        if newest > wire.PROTOCOL:
            raise ProtocolError(message, remedy="Update slmops here.")
        raise NoAgentError(message, remedy="Run `slmops deploy`: it updates the agent.")
    return protocol


def _error(link: Link, answer: Reply) -> SlmopsError:
    said = answer.said
    kind = KINDS.get(str(said.get("code")), DeviceError)
    return kind(f"{link.device.name}: {said.get('message')}", remedy=said.get("remedy") or None)

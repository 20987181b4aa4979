"""`python -m slmops.daemon.adopt`: let an installed llama-server work, and speak its words for the router's.

To the router this is a worker like any other (`protocol`). llama-server computes; here prompts are counted
and let in, and answers are given their shapes. `adopted` knows what is said to it, `run_llama_server` how.

Laws: it ends with us, and we with it; no text in a message becomes a control token; what does not fit into
the pool waits, first come first served; what was cancelled is computed no further.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from slmops.artifact.description import FILE_NAME, GENERATION, Description, parse
from slmops.daemon import adopted, answer, api
from slmops.daemon.adopted import Heard, Sizes
from slmops.daemon.answer import Telling
from slmops.daemon.protocol import (
    Ask,
    Cancel,
    Done,
    Failed,
    Kind,
    Piece,
    Ping,
    Pulse,
    Reader,
    Ready,
    Refused,
    ToRouter,
    ToWorker,
    frame,
)
from slmops.daemon.refusal import BAD_REQUEST, NOT_READY, SERVER_ERROR, RefusedError
from slmops.daemon.run_llama_server import Server, started
from slmops.daemon.tools import Calls
from slmops.daemon.turns import Tool
from slmops.errors import ModelError, SlmopsError

CHUNK = 1 << 16
SOON = 1.0
"""Seconds in which a process ends whose connections have."""
Asked = api.ChatRequest | api.CompletionRequest


@dataclass
class Pool:
    """The tokens that all requests have room for."""

    free: int
    _line: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    @asynccontextmanager
    async def room(self, count: int) -> AsyncIterator[None]:
        """Wait for room for `count` tokens, behind those who came before, and have it for the block."""
        turn = asyncio.get_running_loop().create_future()
        self._line.append((count, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self.free += count
            else:
                self._line.remove((count, turn))
            self._admit()

    def _admit(self) -> None:
        while self._line and self._line[0][0] <= self.free:
            count, turn = self._line.popleft()
            self.free -= count
            turn.set_result(None)


class Worker:
    """The router's orders, carried out by a llama-server."""

    def __init__(
        self, line: asyncio.StreamWriter, description: Description, digest: str, sizes: Sizes
    ) -> None:
        self._line, self._description, self._digest, self._sizes = line, description, digest, sizes
        self._pool = Pool(sizes.pool)
        self._server: Server | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._steps = 0
        self._begin: list[int] = []
        """What it puts before a text by itself: BOS, where there is one."""
        self._traits: dict[str, bool] = {}
        """What it says of the chat template."""

    def say(self, *messages: ToRouter) -> None:
        """Send messages to the router."""
        self._line.write(b"".join(map(frame, messages)))

    async def open(self, server: Server) -> Ready:
        """Let it speak one token; return what the router is told. Raise ModelError when it cannot."""
        start = time.monotonic()
        await server.loaded()
        try:
            self._begin = await self._ids(server, "")
            event = await server.ask("/completion", {"prompt": self._begin or [0], "n_predict": 1})
            self._traits = (await server.ask("/props")).get("chat_template_caps", {})
        except RefusedError as error:
            raise ModelError(f"it loads and does not answer: {error}") from error
        if not isinstance(event.get("content"), str):
            raise ModelError("it answers, and not as llama-server does")
        self._server = server
        chat: tuple[Kind, ...] = ("chat",) if self._description.chat_template else ()
        return Ready(
            slots=self._sizes.slots,
            pool=self._sizes.pool,
            context=self._description.context,
            kinds=(*chat, "completion"),
            scores=True,
            constrains=True,
            tools=bool(chat) and bool(self._traits.get("supports_tools")),
            seconds=time.monotonic() - start,
        )

    def take(self, message: ToWorker) -> None:
        """Carry out what the router says."""
        if isinstance(message, Ask):
            task = asyncio.ensure_future(self._carry_out(message))
            self._tasks[message.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(message.id, None))
        elif isinstance(message, Cancel):
            if message.id in self._tasks:
                self._tasks[message.id].cancel()
        elif isinstance(message, Ping):
            self.say(Pulse(steps=self._steps, busy=bool(self._tasks), active=len(self._tasks)))

    async def _carry_out(self, ask: Ask) -> None:
        """Answer, or say why not."""
        server = self._server
        if server is None:
            self.say(Refused(id=ask.id, status=NOT_READY, message="the model is loading", reason="loading"))
            return
        try:
            await self._answer(server, ask)
        except RefusedError as refused:
            self.say(
                Refused(
                    id=ask.id,
                    status=refused.status,
                    message=str(refused),
                    reason=refused.reason,
                    param=refused.param,
                )
            )
        # What another's program says may be of any shape: of each request there is an end all the same.
        except Exception as error:  # noqa: BLE001
            # When it has ended so do we, and the router asks again whom it asks then.
            with suppress(TimeoutError):
                await asyncio.wait_for(server.process.wait(), SOON)
            if server.process.returncode is None:
                message = f"llama-server failed: {error}"
                self.say(Refused(id=ask.id, status=SERVER_ERROR, message=message))

    async def _answer(self, server: Server, ask: Ask) -> None:
        asked = api.parse(api.kind_of[ask.kind], ask.body)
        if not isinstance(asked, api.ChatRequest | api.CompletionRequest):
            raise RefusedError(BAD_REQUEST, f"an adopted llama-server is not asked for {ask.kind}")
        adopted.check(asked)
        ids = await self._prompt(server, asked, ask.body)
        limit = self._limit(ids, asked.limit(self._description.generation), asked.place)
        telling = self._telling(asked, ask)
        last = Heard("", 0, finish="length")
        if limit:
            async with self._pool.room(len(ids) + limit):
                said = adopted.body(asked, self._description.generation, ids, limit)
                async with aclosing(server.events("/completion", said)) as events:
                    last = await self._relay(events, ask.id, asked.alternatives, telling)
        data = telling.add(last.text, last.scored)
        assert last.finish is not None  # noqa: S101 - it is the last
        data += telling.end(last.finish, answer.usage(len(ids), last.tokens, last.cached))
        self.say(
            Done(
                id=ask.id,
                data=data,
                prompt_tokens=len(ids),
                cached_tokens=last.cached,
                output_tokens=last.tokens,
                finish=telling.finish(last.finish),
                text=telling.text,
            )
        )

    async def _relay(
        self, events: AsyncGenerator[dict[str, Any]], number: int, alternatives: int | None, telling: Telling
    ) -> Heard:
        """Tell the router of an answer as it comes, up to its last event; return that."""
        began = False
        async for event in events:
            self._steps += 1
            heard = adopted.heard(event, self._description.stop_ids, alternatives)
            if heard.finish:
                return heard
            data = telling.add(heard.text, heard.scored)
            if data or not began:
                self.say(Piece(id=number, data=data, tokens=heard.tokens))
            began = True
        raise ModelError("an answer of llama-server has no end")

    async def _prompt(self, server: Server, asked: Asked, body: bytes) -> list[int]:
        """Return the prompt's ids; raise RefusedError when there is none."""
        if isinstance(asked, api.CompletionRequest):
            return asked.ids or await self._ids(server, asked.text)
        if self._description.chat_template is None:
            raise RefusedError(BAD_REQUEST, "this model has no chat template; use /v1/completions")
        adopted.check_roles(asked, self._traits)
        said = msgspec.json.decode(body)
        texts = "\n".join(_texts(said["messages"]))
        plain, read = [
            await server.ask("/tokenize", {"content": texts, "parse_special": special})
            for special in (False, True)
        ]
        if plain != read:
            raise RefusedError(
                BAD_REQUEST,
                "an adopted llama-server reads the text of a control token in a message as that token: "
                "take it out",
                param="messages",
            )
        named = {"messages": said["messages"], **({"tools": said["tools"]} if _offered(asked) else {})}
        rendered = await server.ask("/apply-template", named)
        # It leaves out the BOS that the template puts there, where it puts it there itself.
        return await self._ids(server, rendered["prompt"])

    async def _ids(self, server: Server, text: str) -> list[int]:
        """Return the ids of a text in which control tokens are control tokens, with one BOS at most."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        ids: list[int] = (await server.ask("/tokenize", asked))["tokens"]
        return ids[1:] if len(self._begin) == 1 and ids[:2] == self._begin * 2 else ids

    def _limit(self, ids: list[int], wanted: int, param: str) -> int:
        """Return the most tokens of answer to a prompt; raise RefusedError when there is no room for any."""
        context = self._description.context
        if not ids:
            raise RefusedError(BAD_REQUEST, "the prompt is empty", reason="invalid_value", param=param)
        if context - len(ids) < min(1, wanted):
            raise RefusedError(
                BAD_REQUEST,
                f"the prompt has {len(ids)} tokens; the context, answer included, {context}",
                reason="context_length_exceeded",
                param=param,
            )
        return min(context - len(ids), wanted)

    def _telling(self, asked: Asked, ask: Ask) -> Telling:
        shape = answer.Answer(
            chat=isinstance(asked, api.ChatRequest),
            id=ask.answer,
            created=ask.created,
            release=self._description.reference,
            digest=self._digest,
            usage_wanted=asked.wants_usage,
        )
        echoes = isinstance(asked, api.CompletionRequest) and asked.echoes
        names = [tool.function.name for tool in _offered(asked)]
        return Telling(
            shape,
            stream=bool(asked.stream),
            scores=asked.alternatives is not None,
            echoed=asked.text if isinstance(asked, api.CompletionRequest) and echoes else "",
            calls=Calls(names) if names else None,
        )


@dataclass(frozen=True)
class Adoption:
    """What is adopted, and for what."""

    program: str
    """The llama-server: a path, or a name to be found on PATH."""
    folder: Path
    digest: str
    slots: int
    pool: int | None
    """By default the artifact's context."""
    threads: int | None
    """By default what the artifact says."""


async def adopt(line: socket.socket, adoption: Adoption) -> int:
    """Run a llama-server and answer the router until it leaves; return the exit code.

    0: the router has left; 1: it does not load, or has ended, and the router or the log was told why.
    """
    reader, writer = await asyncio.open_connection(sock=line)
    try:
        return await _serve(reader, writer, adoption)
    except SlmopsError as error:
        writer.write(frame(Failed(message=str(error), code=error.code)))
        with suppress(OSError):
            await writer.drain()
        return 1


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, adoption: Adoption) -> int:
    try:
        description = parse((adoption.folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise ModelError(f"{adoption.folder} is not an artifact folder: {error}") from error
    if description.format != "gguf" or description.task != GENERATION:
        raise ModelError(f"llama-server is not adopted for {description.format}, {description.task}")
    most = min(description.threads, len(os.sched_getaffinity(0)))
    pool = max(adoption.pool or 0, description.context)
    sizes = Sizes(adoption.slots, pool, adoption.threads or max(1, most))
    worker = Worker(writer, description, adoption.digest, sizes)
    words = partial(adopted.words, str(adoption.folder), description, sizes)
    async with started(adoption.program, words) as server:
        hearing = asyncio.ensure_future(_hear(reader, worker))
        living = asyncio.ensure_future(_live(server, worker))
        await asyncio.wait({hearing, living}, return_when="FIRST_COMPLETED")
        hearing.cancel()
        if not living.done():
            living.cancel()
            return 0
        living.result()
        return 1


async def _live(server: Server, worker: Worker) -> None:
    """Be ready when it is, and return when it has ended; raise ModelError when it does not load."""
    worker.say(await worker.open(server))
    code = await server.process.wait()
    sys.stderr.write(f"slmops.daemon.adopt: llama-server ended with {code}\n")


async def _hear(reader: asyncio.StreamReader, worker: Worker) -> None:
    """Give the worker what the router says, until it leaves."""
    messages: Reader[ToWorker] = Reader(ToWorker)
    with suppress(OSError, ModelError):
        while data := await reader.read(CHUNK):
            for message in messages.feed(data):
                worker.take(message)


def _texts(said: Any) -> list[str]:
    """Return all the texts in messages."""
    if isinstance(said, str):
        return [said]
    inner = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return [text for each in inner for text in _texts(each)]


def _offered(asked: Asked) -> list[Tool]:
    return asked.offered if isinstance(asked, api.ChatRequest) else []


def main() -> int:
    """Work as `work` does, by whose options this is called; return the exit code."""
    reading = argparse.ArgumentParser(prog="python -m slmops.daemon.adopt", description="Adopt llama-server.")
    reading.add_argument("--fd", type=int, required=True)
    reading.add_argument("--artifact", type=Path, required=True)
    reading.add_argument("--digest", default="")
    reading.add_argument("--slots", type=int, default=8)
    reading.add_argument("--pool", type=int)
    reading.add_argument("--threads", type=int)
    reading.add_argument("--adopt", required=True)
    said = reading.parse_args()
    adoption = Adoption(said.adopt, said.artifact, said.digest, said.slots, said.pool, said.threads)
    return asyncio.run(adopt(socket.socket(fileno=said.fd), adoption))


if __name__ == "__main__":
    sys.exit(main())

"""The router's own gate, for who has no agent: a version is asked its golden prompts before it may serve.

It asks a worker directly, past the waiting line, each prompt with nothing of earlier ones used again, so that
the same file on the same processor answers the same to the last bit. It does not know labels or the journal.

Laws: missing data never passes: what could not be asked, or took too long, is inconclusive; a version that
has no golden prompts has only to speak; a worker that ends while it is asked has failed; the time is bounded.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from slmops.artifact import golden as goldens
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.artifact.golden import TOLERANCE, Golden
from slmops.artifact.judge import judge
from slmops.daemon.protocol import Done, Kind
from slmops.daemon.refusal import SERVER_ERROR, RefusedError, WorkerLostError
from slmops.daemon.resident import Resident
from slmops.daemon.versions import Version
from slmops.errors import DocumentError

Outcome = Literal["pass", "fail", "inconclusive"]
SECONDS = 300.0
"""For all golden prompts together."""
FEW, ENOUGH = 8, 32
"""Tokens after the first that tell a speed, at least; and how many are asked for where answers are short."""
MOMENT = 0.005
"""Seconds below which what a speed would be told from is the scheduler's, not the model's."""
SHOWN = 200
"""Letters of a question, an expectation and an answer that are kept of a prompt that failed."""


@dataclass(frozen=True)
class Proof:
    """What a gate has come to, and what it saw."""

    outcome: Outcome
    message: str
    asked: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Of each prompt that failed: question, expected, answer."""
    distance: float | None = None
    """Nats that the worst reference lies off; infinity is told as none, with a failed prompt."""
    tokens_per_second: float | None = None


@dataclass
class _Seen:
    asked: int = 0
    unscored: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    tokens: int = 0
    """After the first of each answer."""
    seconds: float = 0.0

    @property
    def speed(self) -> float | None:
        """Return tokens per second; None of too few tokens, or where they took no time that can be told."""
        return self.tokens / self.seconds if self.tokens >= FEW and self.seconds > MOMENT else None

    def proof(self, outcome: Outcome, message: str) -> Proof:
        finite = [each for each in self.distances if math.isfinite(each)]
        return Proof(outcome, message, self.asked, self.failed, max(finite, default=None), self.speed)


async def prove(worker: Resident, seconds: float = SECONDS, speed: float | None = None) -> Proof:
    """Ask a version its golden prompts and return what came of it.

    `speed` is the share of the tokens per second that its artifact promises which it must reach; None asks
    nothing of the kind.
    """
    seen = _Seen()
    try:
        prompts = read(worker.version)
        async with asyncio.timeout(seconds):
            await _ask_all(worker, prompts, seen)
            if speed is not None and prompts and seen.tokens < FEW and not seen.failed:
                await _lengthen(worker, prompts, seen)
    except TimeoutError:
        return seen.proof("inconclusive", f"it was not through within {seconds:.0f} s")
    except DocumentError as error:
        return seen.proof("inconclusive", str(error))
    except WorkerLostError as error:
        return seen.proof("fail", f"it ended while it was asked: {error}")
    except RefusedError as error:
        return seen.proof("inconclusive", f"a golden prompt cannot be asked: {error}")
    return _judge(seen, worker.version.description, prompts, speed)


def read(version: Version) -> list[Golden]:
    """Return a version's golden prompts, none where it has none; raise DocumentError for unreadable ones."""
    if version.description.golden is None:
        return []
    file = Path(version.folder) / version.description.golden
    if not file.is_file():
        raise DocumentError(f"{file} is not a file")
    try:
        return goldens.read(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{file} cannot be read: {error}") from error


def _judge(seen: _Seen, said: Description, prompts: Sequence[Golden], speed: float | None) -> Proof:
    if seen.failed:
        return seen.proof("fail", f"{len(seen.failed)} of {seen.asked} golden prompts failed")
    if prompts and not seen.asked:
        return seen.proof("inconclusive", "none of its golden prompts could be asked: it scores no texts")
    promised = said.predicted.get("tokens_per_second")
    if speed is not None and promised and said.task != CLASSIFICATION:
        if seen.tokens < FEW:
            return seen.proof("inconclusive", "its speed could not be measured")
        if seen.speed is not None and seen.speed < speed * promised:
            least = f"{speed:g} of the promised {promised:.4g}"
            return seen.proof("fail", f"{seen.speed:.4g} tokens/s, at least {least} expected")
    passed = (
        f"{seen.asked} of {seen.asked} golden prompts passed"
        if prompts
        else "it runs; it has no golden prompts"
    )
    rest = f"; {seen.unscored} references not asked: it scores no texts" if seen.unscored else ""
    return seen.proof("pass", passed + rest)


async def _ask_all(worker: Resident, prompts: Sequence[Golden], seen: _Seen) -> None:
    scores = worker.ready is not None and worker.ready.scores
    for golden in prompts:
        if golden.is_reference and not scores:
            seen.unscored += 1
            continue
        seen.asked += 1
        try:
            answer = await (_score if golden.is_reference else _wrong)(worker, golden, seen)
        except RefusedError as error:
            if error.status != SERVER_ERROR:
                raise
            # The model itself gave up, as one does whose weights are no numbers.
            answer = str(error)
        if answer is not None:
            seen.failed.append(_shown(golden, answer))


async def _lengthen(worker: Resident, prompts: Sequence[Golden], seen: _Seen) -> None:
    """Have the model answer one prompt at length, where the answers were too short for a speed."""
    first = (goldens.questions(prompts) or prompts)[0]
    await _answer(worker, replace(first, max_tokens=ENOUGH), seen)


async def _wrong(worker: Resident, golden: Golden, seen: _Seen) -> str | None:
    """Return what was answered where that is wrong, None where it is right."""
    answer = await _answer(worker, golden, seen)
    return None if await asyncio.to_thread(judge, golden, answer) else answer


async def _answer(worker: Resident, golden: Golden, seen: _Seen) -> str:
    if worker.version.description.task == CLASSIFICATION:
        said = await _said(worker, "classify", {"input": golden.question})
        return str(json.loads(said.data)["data"][0]["label"])
    told = {"max_tokens": golden.max_tokens, "temperature": 0, "cache_prompt": False}
    kind: Kind = "completion" if golden.messages is None else "chat"
    question = {"prompt": golden.prompt} if golden.messages is None else {"messages": golden.messages}
    choice = json.loads((await _said(worker, kind, {**question, **told}, seen)).data)["choices"][0]
    return str(choice["text"] if kind == "completion" else choice["message"]["content"] or "")


async def _score(worker: Resident, golden: Golden, seen: _Seen) -> str | None:
    """Return how far a reference lies off where that is too far, None where it is near enough."""
    asked = {"prompt": golden.prompt, "echo": True, "logprobs": 0, "max_tokens": 0, "cache_prompt": False}
    said = json.loads((await _said(worker, "completion", asked)).data)
    found = said["choices"][0]["logprobs"]["token_logprobs"][1:]
    distance = goldens.distance(golden, [math.nan if each is None else each for each in found])
    seen.distances.append(distance)
    return None if distance <= TOLERANCE else f"{distance:.3g} nats off, at most {TOLERANCE} expected"


async def _said(worker: Resident, kind: Kind, body: dict[str, Any], seen: _Seen | None = None) -> Done:
    """Return the end of an answer, and note how long its tokens took."""
    first: float | None = None
    async with aclosing(worker.ask(kind, json.dumps(body).encode(), "gate", int(time.time()))) as answer:
        async for said in answer:
            first = first if first is not None else time.monotonic()
            if isinstance(said, Done):
                if seen is not None:
                    seen.tokens += max(0, said.output_tokens - 1)
                    seen.seconds += time.monotonic() - first
                return said
    raise WorkerLostError(f"{worker.version.release}: the answer has no end")


def _shown(golden: Golden, answer: str) -> dict[str, Any]:
    """Return what is kept of a prompt that failed: as much of each as a person reads."""
    expected = golden.expect if isinstance(golden.expect, str) else json.dumps(golden.expect)
    return {"question": golden.question[:SHOWN], "expected": expected[:SHOWN], "answer": answer[:SHOWN]}

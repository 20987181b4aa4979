"""Ask an OpenAI-compatible endpoint: several questions at once, patiently, and never more than allowed.

Conversations go to /chat/completions, plain prompts to /completions. Knows nothing of files.

Laws: the key is sent and never kept or shown; every answer is handed on as soon as it is there; what may
pass (busy, restarting, a broken link) is tried again, what will not is told at once with what to do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from slmops.build.isolate import Progress
from slmops.errors import UnreachableError, UsageError
from slmops.train.answers import Answer, Asking, Question, seed_of
from slmops.train.keep_answers import Heard, Kept, keep_answers

NEWER_LIMIT = "max_completion_tokens"
"""What some models want `max_tokens` to be called, and many a server does not know."""
TRIES = 7
FIRST_PAUSE = 0.5
"""Seconds; each next pause is twice as long."""
MOST_PAUSE = 60.0
"""Seconds between two tries, whatever the endpoint asks for."""
PATIENCE = httpx.Timeout(600.0, connect=10.0)
"""Seconds: a long answer takes its time, a connection does not."""
PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
NOT_THERE, NO_KEY = frozenset({404, 405}), frozenset({401, 403})
ITS_OWN = frozenset(
    {"context_length_exceeded", "unknown_character", "content_filter", "content_policy_violation"}
)
"""Codes of refusals that concern one question and no other."""
SAID = 300
"""Characters of an endpoint's words that are shown."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, and the model that it is asked for."""

    url: str
    """Up to and with its version: http://host/v1."""
    model: str
    key: str | None = field(default=None, repr=False)


def open_endpoint(url: str, model: str | None, key: str | None) -> Endpoint:
    """Return an endpoint that answers; its model, where only one is there, need not be named.

    Raises UnreachableError when nothing answers there, UsageError for a key that is refused or a model
    that must be named.
    """
    base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions")
    try:
        parsed = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url} is no address: {error}", remedy="Give http://HOST:PORT/v1.") from error
    if parsed.userinfo:
        raise UsageError(
            "the address holds a password, which every line of the data would show",
            remedy="Give the key by an environment variable: OPENAI_API_KEY, or --key-from NAME.",
        )
    found = asyncio.run(_models(Endpoint(base, model or "", key)))
    if model is None and len(found) != 1:
        raise UsageError(
            f"{base} " + (f"has {len(found)} models" if found else "does not say which models it has"),
            remedy=f"Say which with --teacher-model: {_listed(found)}."
            if found
            else "Give the address up to and with its version, http://HOST:PORT/v1; or --teacher-model NAME.",
        )
    return Endpoint(base, model or found[0], key)


def ask_endpoint(
    endpoint: Endpoint,
    questions: Iterable[Question],
    asking: Asking,
    journal: tuple[Path, dict[str, Any]],
    progress: Progress,
) -> Heard:
    """Return the answers to all of `questions`.

    What `journal` (a file, and what it must be of) has an answer to is not asked again. Raises
    UnreachableError when the endpoint does not answer for long, UsageError for what it will not do.
    """
    numbered = [(question, number) for question in questions for number in range(asking.answers)]
    with keep_answers(*journal, progress) as kept:
        todo = [
            (question, number)
            for question, number in numbered
            if (question.digest, number) not in kept.answers
        ]
        told = partial(progress, f"{endpoint.model} answers")
        asyncio.run(
            _ask_all(_Talk(endpoint, asking), todo, kept, lambda left: told(1 - left / len(numbered)))
        )
        return kept.heard()


async def _ask_all(
    talk: _Talk, todo: list[tuple[Question, int]], kept: Kept, told: Callable[[int], None]
) -> None:
    """Ask several at once; `told` hears how many are left."""
    line, left = iter(todo), len(todo)

    async def work() -> None:
        nonlocal left
        # Workers share one line of questions.
        for question, number in line:
            kept.add([((question.digest, number), await talk.answer(question, number))])
            left -= 1
            told(left)

    async with talk.client:
        workers = [asyncio.ensure_future(work()) for _ in range(talk.asking.batch)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()


class _Talk:
    """An endpoint while it is asked, and what was learned of it."""

    def __init__(self, endpoint: Endpoint, asking: Asking) -> None:
        self._endpoint, self.asking, self.client = endpoint, asking, _client(endpoint)
        self._limit = "max_tokens"

    async def answer(self, question: Question, number: int) -> Answer:
        """Return one answer; a question that is refused for its own sake has none."""
        where = "completions" if question.messages is None else "chat/completions"
        body = self._body(question, number)
        heard = await self._post(where, body)
        if heard.is_success:
            return _answer(heard, question)
        said, code = _error(heard)
        if code in ITS_OWN:
            return Answer("", "refused")
        if NEWER_LIMIT in said and NEWER_LIMIT not in body:
            self._limit = NEWER_LIMIT
            return await self.answer(question, number)
        raise await self._refusal(heard, question, where)

    def _body(self, question: Question, number: int) -> dict[str, Any]:
        asking = self.asking
        drawn = {"seed": seed_of(asking, question, number)} if asking.temperature else {}
        nucleus = {"top_p": asking.top_p} if asking.top_p < 1 else {}
        return {
            "model": self._endpoint.model,
            **question.said,
            self._limit: asking.max_tokens,
            "temperature": asking.temperature,
            **drawn,
            **nucleus,
        }

    async def _post(self, where: str, body: dict[str, Any]) -> httpx.Response:
        """Return what is said to a request, which is tried again as long as what ails it may pass."""
        told = ""
        for attempt in range(TRIES):
            pause = min(FIRST_PAUSE * 2**attempt, MOST_PAUSE)
            try:
                heard = await self.client.post(f"{self._endpoint.url}/{where}", json=body)
            except httpx.TransportError as error:
                told = _why(error)
            else:
                said, code = _error(heard)
                if heard.status_code not in PASSING or code == "insufficient_quota":
                    return heard
                told = f"HTTP {heard.status_code}: {said}"
                wanted = _asked_pause(heard)
                pause = pause if wanted is None else min(wanted, MOST_PAUSE)
            if attempt < TRIES - 1:
                # Not all of them at the same moment.
                await asyncio.sleep(pause * random.uniform(1.0, 1.25))  # noqa: S311 - no secret
        raise UnreachableError(
            f"{self._endpoint.url} did not answer {TRIES} times in a row; at last: {told}",
            remedy="Run the same command again later: it goes on with what is not answered yet. A smaller "
            "--batch asks for less at once.",
        )

    async def _refusal(self, heard: httpx.Response, question: Question, where: str) -> UsageError:
        said, code = _error(heard)
        told = f"{self._endpoint.url}/{where} answered HTTP {heard.status_code}: {said}"
        if heard.status_code in NO_KEY:
            return _no_key(self._endpoint, said)
        if code == "insufficient_quota":
            return UsageError(told, remedy="Pay for more; then run the same command again: it goes on.")
        if "model" in said.lower() and heard.status_code in (NOT_THERE | {400}):
            found = await _models(self._endpoint)
            return UsageError(told, remedy=f"Give --teacher-model one of: {_listed(found) or 'its models'}.")
        if heard.status_code in NOT_THERE:
            return UsageError(
                told,
                remedy="Give the address up to and with its version, http://HOST:PORT/v1"
                + ("; or --chat, if it takes conversations alone." if where == "completions" else "."),
            )
        return UsageError(
            f"{question.where}: {told}",
            remedy="Change what it names, or leave that question out; then run again.",
        )


async def _models(endpoint: Endpoint) -> list[str]:
    """Return the models of an endpoint, none where it does not say; raise where it is not to be reached."""
    async with _client(endpoint) as client:
        try:
            heard = await client.get(f"{endpoint.url}/models")
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            raise UnreachableError(
                f"{endpoint.url} cannot be reached: {_why(error)}",
                remedy="Check the address (http://HOST:PORT/v1), and that the server runs: "
                f"curl {endpoint.url}/models",
            ) from error
    if heard.status_code in NO_KEY:
        raise _no_key(endpoint, _error(heard)[0])
    try:
        return [str(each["id"]) for each in heard.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    return httpx.AsyncClient(headers=headers, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))


def _answer(heard: httpx.Response, question: Question) -> Answer:
    """Return the answer in a response; raise UsageError for one that is none of OpenAI's shape."""
    try:
        said = heard.json()
        choice = said["choices"][0]
        text = choice["text"] if question.messages is None else choice["message"]["content"]
        tokens = int((said.get("usage") or {}).get("completion_tokens") or 0)
        ended = choice.get("finish_reason")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(
            f"{heard.url} answers in another shape than OpenAI's: {heard.text[:SAID]!r}",
            remedy="Give the address of an OpenAI-compatible server, up to and with its version: "
            "http://HOST:PORT/v1.",
        ) from error
    if ended == "content_filter":
        return Answer("", "refused")
    return Answer(text or "", "length" if ended == "length" else "stop", tokens)


def _error(heard: httpx.Response) -> tuple[str, str | None]:
    """Return an endpoint's words about what went wrong, and its code for it."""
    if heard.is_success:
        return "", None
    try:
        error = heard.json()["error"]
        return str(error["message"])[:SAID], error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return heard.text[:SAID].strip() or heard.reason_phrase, None


def _asked_pause(heard: httpx.Response) -> float | None:
    """Return the seconds that Retry-After asks for: a number of them, or a date."""
    said = heard.headers.get("retry-after", "")
    try:
        return max(float(said), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _no_key(endpoint: Endpoint, said: str) -> UsageError:
    return UsageError(
        f"{endpoint.url} refuses " + ("the key: " if endpoint.key else "to answer without a key: ") + said,
        remedy="Put the right key into the environment variable OPENAI_API_KEY, or name another with "
        "--key-from.",
    )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _listed(models: list[str]) -> str:
    return ", ".join(models[:10]) + (", ..." if len(models) > 10 else "")  # noqa: PLR2004 - as many as a line shows

"""Put a release's golden prompts to a version that is loaded, and time it while it answers.

It knows how to ask and what came back; whether that is good enough it does not say.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from slmops.artifact import golden as goldens
from slmops.artifact.description import CLASSIFICATION, Description
from slmops.artifact.golden import Golden
from slmops.artifact.judge import judge
from slmops.device import admin, steer, talk
from slmops.device.bounds import LATENCY, LOGPROB, SPEED, Measured
from slmops.device.places import Places, read_json
from slmops.errors import DeviceError, DocumentError

ENOUGH = 32
"""Tokens after the first of each answer that tell a speed."""
FEW = 8
"""Fewer, and they tell none."""
SHOWN = 200
"""Letters of a question, of what was expected and of the answer, that are kept of one that failed."""


@dataclass
class Paper:
    """What one round of golden prompts gave."""

    answers: list[str] = field(default_factory=list)
    """To the questions, in order; references have none."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    unscored: int = 0
    """References that this daemon cannot score."""
    distances: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    later_tokens: int = 0
    later_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def measured(self) -> Measured:
        """Return what it comes to."""
        told = self.later_tokens >= FEW and self.later_seconds > 0
        return Measured(
            time_to_first_token=statistics.median(self.firsts) if self.firsts else None,
            tokens_per_second=self.later_tokens / self.later_seconds if told else None,
            answers_per_second=self.tokens / self.seconds if told else None,
            answer_tokens=self.tokens / len(self.firsts) if told else None,
            logprob=max(self.distances) if self.distances else None,
        )

    @property
    def able(self) -> set[str]:
        """Return what of it can be measured of this model, by this daemon."""
        there = {LATENCY: self.firsts, SPEED: self.later_tokens >= FEW, LOGPROB: self.distances}
        return {what for what, found in there.items() if found}

    def took(self, spoken: talk.Spoken) -> None:
        """Take note of how long an answer took."""
        self.firsts.append(spoken.first)
        self.later_tokens += max(0, spoken.tokens - 1)
        self.later_seconds += spoken.seconds - spoken.first
        self.tokens += spoken.tokens
        self.seconds += spoken.seconds


@dataclass(frozen=True)
class Examiner:
    """Who asks one daemon, and until when."""

    places: Places
    description: Description
    model: str | None
    """The name of the version that is asked; None of a daemon of before, which serves one."""
    scores: bool
    """The daemon tells log-probabilities."""
    end: float
    """Of the monotonic clock."""

    def ask(self, prompts: Sequence[Golden], told: Callable[[int, int], None]) -> Paper:
        """Ask them all; `told` hears the number of each and how many have failed.

        Raises DeviceError where one could not be asked.
        """
        paper = Paper()
        for number, golden in enumerate(prompts, 1):
            told(number, len(paper.failed))
            try:
                self._ask_one(golden, paper)
            except talk.UnansweredError as error:
                if error.status != HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise DeviceError(f"golden prompt {number}: {error}") from error
                # The model itself gave up, as one does whose weights are no numbers.
                paper.failed.append(_failed(golden, "", str(error)))
            except (DeviceError, DocumentError) as error:
                raise DeviceError(f"golden prompt {number}: {error}") from error
            except talk.ODD as error:
                raise DeviceError(f"golden prompt {number}: the answer is of no known shape") from error
        return paper

    def hurry(self, prompts: Sequence[Golden]) -> Paper:
        """Ask for the times alone, and leave out what there is no time for."""
        paper = Paper()
        try:
            for golden in goldens.questions(prompts):
                self._answer(golden, paper)
            self.lengthen(prompts, paper)
        except DeviceError:
            if time.monotonic() < self.end:
                raise
        return paper

    def lengthen(self, prompts: Sequence[Golden], paper: Paper) -> None:
        """Have the model answer the first prompt at length where the answers were too short for a speed."""
        if self.description.task != CLASSIFICATION and paper.later_tokens < FEW:
            for golden in (goldens.questions(prompts) or prompts)[:1]:
                self._answer(replace(golden, max_tokens=ENOUGH), paper)

    @property
    def _left(self) -> float:
        return max(self.end - time.monotonic(), 0.001)

    @property
    def _whom(self) -> dict[str, Any]:
        """Return who is to answer, and that nothing it has read before may help: a last bit could differ."""
        return {} if self.model is None else {"model": self.model, "cache_prompt": False}

    def _ask_one(self, golden: Golden, paper: Paper) -> None:
        if golden.is_reference and not self.scores:
            paper.unscored += 1
            return
        paper.asked += 1
        if golden.is_reference:
            paper.distances.append(goldens.distance(golden, self._scores(golden)))
            return
        answer = self._answer(golden, paper)
        paper.answers.append(answer)
        if not judge(golden, answer):
            paper.failed.append(_failed(golden, golden.expect, answer))

    def _answer(self, golden: Golden, paper: Paper) -> str:
        if self.description.task == CLASSIFICATION:
            began = time.monotonic()
            label = talk.classify(self.places, golden.question, self._left, self.model)
            paper.firsts.append(time.monotonic() - began)
            return label
        said = {
            "prompt": golden.prompt,
            "messages": golden.messages,
            "max_tokens": golden.max_tokens,
            "temperature": 0,
            "raw": True,
        }
        path, body = talk.question(said, chat=self.description.chat_template is not None)
        spoken = talk.timed(self.places, path, {**body, **self._whom}, self._left)
        paper.took(spoken)
        return spoken.text

    def _scores(self, golden: Golden) -> list[float]:
        """Return the log-probability of each token of a reference's text but the first."""
        body = {"prompt": golden.prompt, "echo": True, "logprobs": 0, "max_tokens": 0, **self._whom}
        found = talk.scores(self.places, body, self._left)
        return [math.nan if each is None else each for each in found[1:]]


def _failed(golden: Golden, expected: Any, answer: str) -> dict[str, Any]:
    """Return what is kept of a prompt that failed: as much of each as a person reads."""
    whole = expected if isinstance(expected, str) else json.dumps(expected)
    shown = expected if len(whole) <= SHOWN else whole[:SHOWN]
    return {"question": golden.question[:SHOWN], "expected": shown, "answer": answer[:SHOWN]}


def read(folder: Path, description: Description) -> list[Golden]:
    """Return the golden prompts of a slot's files; none where it has none."""
    if description.golden is None:
        return []
    return goldens.read((folder / description.golden).read_text(encoding="utf-8"))


def of(places: Places, slot: str, description: Description, seconds: float) -> Examiner:
    """Return who may ask a slot, serving or not, for so long; raise DeviceError when it is not ready."""
    end = time.monotonic() + seconds
    digest, state = f"sha256:{slot}", read_json(places.daemon) or {}
    if (state.get("router") or {}).get("steered"):
        seen = steer.version(admin.status(places), slot)
        if seen.get("state") != "ready":
            raise DeviceError("the version is not ready")
        serving = talk.ready(places) or {}
        # Of one that does not serve the router says nothing; all of ours score.
        scores = serving.get("scores") if serving.get("digest") == digest else seen.get("scores", True)
        return Examiner(places, description, f"{description.reference}@{digest}", bool(scores), end)
    said = talk.ready(places)
    if said is None:
        raise DeviceError("the daemon is not ready")
    return Examiner(places, description, None, bool(said.get("scores")), end)

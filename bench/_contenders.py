"""Those that `daemon.py` compares: how each is started, what a round asks of it, and what is noted.

It does not know goals. Servers are asked over HTTP by a process of their own (_load.py); the raw loop is told
its prompts over a pipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, cast

import _load
from _measure import HERE
from _served import (
    CONTEXT,
    MICRO_BATCH,
    THREADS,
    Server,
    free_port,
    prompts,
    serving,
    slmopsd,
    spent,
)

CLIENTS: Final = 8
PROMPT, SHARED, ANSWER = 145, 130, 64
RAW, PEER, LLAMA, OURS = "R raw loop", "S llama_cpp.server", "L llama-server", "slmops"
SHARING: Final = "slmops as by default"


@dataclass(frozen=True)
class Effort:
    """How much is asked in a round."""

    alone: int = 6
    """Answers to one client."""
    firsts: int = 40
    """First tokens to one client, of new prompts and of one that was read before."""
    each: int = 2
    """Answers to each of eight clients."""


@dataclass
class Figures:
    """What one contender did in one round."""

    pace: float = 0.0
    """Tokens a second after the first, one client."""
    new: list[float] = field(default_factory=list)
    """Milliseconds to the first token, one client, new prompts."""
    again: list[float] = field(default_factory=list)
    """As above, a prompt that was read before."""
    cpu: float = 0.0
    """Milliseconds of processor for each token, prompts read included, one client: steadier than time."""
    cpu_cold: float = 0.0
    """As above, of eight clients."""
    cold: float = 0.0
    """Tokens a second of eight clients, new prompts."""
    cold_first: list[float] = field(default_factory=list)
    shared: float = 0.0
    """As above, prompts that begin alike."""
    shared_first: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Round:
    """The prompts of one round: new ones to every contender, the same ones to all."""

    alone: list[str]
    firsts: list[str]
    cold: list[str]
    shared: list[str]

    @classmethod
    def draw(cls, folder: Path, effort: Effort, number: int) -> Round:
        """Make the prompts of round `number`."""
        count = effort.alone + effort.firsts + CLIENTS * effort.each
        new = prompts(folder, count, PROMPT, number)
        alike = prompts(folder, CLIENTS * (effort.each + 1), PROMPT, 1000 + number, SHARED)
        first, second = effort.alone, effort.alone + effort.firsts
        return cls(new[:first], new[first:second], new[second:], alike)


class Raw:
    """R."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._ask(None)

    def _ask(self, job: dict[str, Any] | None) -> dict[str, Any]:
        if job is not None:
            ours = cast("IO[bytes]", self.process.stdin)
            ours.write(json.dumps(job).encode() + b"\n")
            ours.flush()
        line = cast("IO[bytes]", self.process.stdout).readline()
        if not line:
            sys.exit("the raw loop ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def pids(self) -> list[int]:
        """Return its process."""
        return [self.process.pid]

    def fill(self, asked: Sequence[str]) -> None:
        """Answer eight prompts together."""
        self._ask({"prompts": list(asked[:CLIENTS]), "tokens": ANSWER, "again": False})

    def play(self, asked: Round) -> Figures:
        """Play a round: eight at a time are read one after another and written together."""

        def job(prompts: Sequence[str], tokens: int, *, again: bool = False) -> dict[str, Any]:
            return self._ask({"prompts": list(prompts), "tokens": tokens, "again": again})

        figures = Figures()
        before = spent(self.pids())
        figures.pace = statistics.median(job([prompt], ANSWER)["pace"] for prompt in asked.alone)
        figures.cpu = (spent(self.pids()) - before) / len(asked.alone) / ANSWER * 1000
        figures.new = [job([prompt], 1)["first"][0] * 1000 for prompt in asked.firsts]
        job(asked.firsts[:1], 1)
        figures.again = [job(asked.firsts[:1], 1, again=True)["first"][0] * 1000 for _ in asked.firsts]
        together = [asked.cold[at : at + CLIENTS] for at in range(0, len(asked.cold), CLIENTS)]
        before = spent(self.pids())
        done = [job(prompts, ANSWER) for prompts in together]
        figures.cpu_cold = (spent(self.pids()) - before) / len(asked.cold) / ANSWER * 1000
        figures.cold = len(asked.cold) * ANSWER / sum(each["seconds"] for each in done)
        figures.cold_first = [first * 1000 for each in done for first in each["first"]]
        return figures


class Asked:
    """A server that is asked over HTTP."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def pids(self) -> list[int]:
        """Return its processes."""
        return self.server.pids()

    def fill(self, asked: Sequence[str]) -> None:
        """Have eight clients asking at once."""
        self._play([[prompt] for prompt in asked[:CLIENTS]], ANSWER)

    def play(self, asked: Round) -> Figures:
        """Play a round."""
        figures = Figures()
        before = spent(self.pids())
        figures.pace = _load.pace(self._play([asked.alone], ANSWER), ANSWER)
        figures.cpu = (spent(self.pids()) - before) / len(asked.alone) / ANSWER * 1000
        figures.new = _waits(self._play([asked.firsts], 2))
        self._play([asked.firsts[:1]], 2)
        figures.again = _waits(self._play([asked.firsts[:1] * len(asked.firsts)], 2))
        before = spent(self.pids())
        got = self._play(_deal(asked.cold), ANSWER)
        figures.cpu_cold = (spent(self.pids()) - before) / len(asked.cold) / ANSWER * 1000
        figures.cold, figures.cold_first = _load.rate(got, ANSWER), _waits(got)
        self._play(_deal(asked.shared[:CLIENTS]), 2)
        got = self._play(_deal(asked.shared[CLIENTS:]), ANSWER)
        figures.shared, figures.shared_first = _load.rate(got, ANSWER), _waits(got)
        return figures

    def _play(self, asked: Sequence[Sequence[str]], tokens: int) -> list[_load.Got]:
        got = _load.play(self.server.port, [[_body(prompt, tokens) for prompt in each] for each in asked])
        bad = [each for each in got if not each.good]
        if bad:
            sys.exit(f"{self.server.name}: {len(bad)} of {len(got)} requests failed: {bad[0]}")
        return got


Contender = Raw | Asked
Starts = dict[str, Callable[[], AbstractContextManager[Contender]]]


def _body(prompt: str, tokens: int) -> dict[str, Any]:
    said = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    return {**said, "stream_options": {"include_usage": True}}


def _deal(asked: Sequence[str]) -> list[list[str]]:
    return [list(asked[client::CLIENTS]) for client in range(CLIENTS)]


def _waits(got: Sequence[_load.Got]) -> list[float]:
    return [each.wait * 1000 for each in got]


def starts(folder: Path, asked: argparse.Namespace, *, memory_too: bool = False) -> Starts:
    """Return how each contender is started; those too of which only memory is of interest."""
    file = folder / "model.gguf"
    threads, whole = str(THREADS), str(CLIENTS * CONTEXT)

    @contextmanager
    def raw() -> Iterator[Contender]:
        words = [asked.python, HERE / "_raw.py", file, CLIENTS, CONTEXT, MICRO_BATCH, THREADS]
        pipe = subprocess.PIPE
        with subprocess.Popen(list(map(str, words)), stdin=pipe, stdout=pipe) as process:
            try:
                yield Raw(process)
            finally:
                process.kill()

    @contextmanager
    def peer() -> Iterator[Contender]:
        port = free_port()
        words = f"-m llama_cpp.server --host 127.0.0.1 --port {port} --interrupt_requests false"
        words += f" --n_ctx {CONTEXT} --n_threads {threads} --n_threads_batch {threads} --logits_all false"
        with serving(PEER, [asked.peer, *words.split(), "--model", file], port, "/v1/models") as server:
            yield Asked(server)

    @contextmanager
    def llama() -> Iterator[Contender]:
        port = free_port()
        words = f"-c {whole} -np {CLIENTS} -t {threads} -tb {threads} -ub {MICRO_BATCH} --port {port}"
        argv = [asked.llama_server, "-m", file, *words.split(), "--host", "127.0.0.1"]
        with serving(LLAMA, argv, port, "/health") as server:
            yield Asked(server)

    @contextmanager
    def ours(*words: str) -> Iterator[Contender]:
        with slmopsd(folder, *words, python=asked.python, tree=asked.tree, steered=False) as server:
            yield Asked(server)

    found: Starts = {RAW: raw, OURS: partial(ours, *asked.flags.split())}
    if asked.llama_server:
        found[LLAMA] = llama
    if asked.peer:
        found[PEER] = peer
    if memory_too:
        found[SHARING] = ours
    return found

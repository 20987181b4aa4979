"""The daemon beside what it is to be as fast as, on the same file with the same threads.

    .venv/bin/python bench/daemon.py [--sizes 77M 0.5B] [--llama-server PROGRAM] [--peer PYTHON] [--quick]

R is llama.cpp's C interface in a loop, in one process, without a server (_raw.py). S is llama_cpp.server with
its interrupts off, one request at a time; it needs a Python that has llama-cpp-python[server], --peer. L is
llama-server, built from the llama.cpp of the same llama-cpp-python, --llama-server, with 8 slots. What is not
given is left out, and that is said. Ours is the router with its worker, asked over loopback as S and L are.

The models have random weights (_random_model.py) and are built with `slmops quantize` to Q8_0, kept in
--room. Every prompt has 145 tokens, every answer 64, at temperature 0, as a stream. Cold prompts are new to
all; with a shared prefix 130 tokens are the same each time, and every client has asked once before. A first
token is there when the client, a process of its own, has the first event with text in it. Every contender
runs once in every round, after the others; figures are medians over the rounds, quantiles those within a
round. All stay up, and idle ones wait.

Memory is read of one contender at a time, after eight clients had an answer, with 8 x 2048 tokens of context;
and of ours as it is without a word, where eight requests share the tokens of one context.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, cast

import _load
from _goals import Goal, at_least, at_most, show_goals
from _measure import HERE, ROOT, progress, save, show
from _served import (
    CONTEXT,
    MICRO_BATCH,
    ROOM,
    THREADS,
    Server,
    artifact,
    busy,
    free_port,
    memory,
    mortal,
    prompts,
    serving,
    slmopsd,
)

CLIENTS: Final = 8
PROMPT, SHARED, ANSWER = 145, 130, 64
ROUNDS: Final = 5
QUIET: Final = 0.05
"""Share of the processors that others may use, and the machine is called quiet."""
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
        figures.pace = statistics.median(job([prompt], ANSWER)["pace"] for prompt in asked.alone)
        figures.new = [job([prompt], 1)["first"][0] * 1000 for prompt in asked.firsts]
        job(asked.firsts[:1], 1)
        figures.again = [job(asked.firsts[:1], 1, again=True)["first"][0] * 1000 for _ in asked.firsts]
        together = [asked.cold[at : at + CLIENTS] for at in range(0, len(asked.cold), CLIENTS)]
        done = [job(prompts, ANSWER) for prompts in together]
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
        figures.pace = _load.pace(self._play([asked.alone], ANSWER), ANSWER)
        figures.new = _waits(self._play([asked.firsts], 2))
        self._play([asked.firsts[:1]], 2)
        figures.again = _waits(self._play([asked.firsts[:1] * len(asked.firsts)], 2))
        got = self._play(_deal(asked.cold), ANSWER)
        figures.cold, figures.cold_first = _load.rate(got, ANSWER), _waits(got)
        self._play(_deal(asked.shared[:CLIENTS]), 2)
        got = self._play(_deal(asked.shared[CLIENTS:]), ANSWER)
        figures.shared, figures.shared_first = _load.rate(got, ANSWER), _waits(got)
        return figures

    def _play(self, asked: Sequence[Sequence[str]], tokens: int) -> list[_load.Got]:
        got = _load.play(self.server.port, [[_body(prompt, tokens) for prompt in each] for each in asked])
        bad = [each for each in got if not each.good or each.first is None]
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


def contend(
    folder: Path, asked: argparse.Namespace, effort: Effort
) -> tuple[dict[str, list[Figures]], list[float]]:
    """Play all rounds; return each contender's figures, and how busy others kept the machine."""
    found: dict[str, list[Figures]] = {}
    others = list[float]()
    with ExitStack() as stack:
        there = {name: stack.enter_context(start()) for name, start in starts(folder, asked).items()}
        for number in range(1, asked.rounds + 1):
            drawn = Round.draw(folder, effort, number)
            for name, contender in there.items():
                others.append(busy())
                progress(f"round {number}/{asked.rounds}  {name}  others use {others[-1]:.0%}")
                found.setdefault(name, []).append(contender.play(drawn))
    return found, others


def weigh(folder: Path, asked: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return the memory of each contender's processes, in megabytes, the one that was started first."""
    found = {}
    drawn = prompts(folder, CLIENTS, PROMPT, 77)
    for name, start in starts(folder, asked, memory_too=True).items():
        if name != PEER:
            with start() as contender:
                contender.fill(drawn)
                found[name] = [memory(pid) for pid in contender.pids()]
    return found


def middle(figures: Sequence[Figures], what: str, share: float | None = None) -> float:
    """Return the median over the rounds; of times their quantile within each."""
    values = [getattr(each, what) for each in figures]
    if share is not None:
        values = [_load.quantile(each, share) for each in values]
    return float(statistics.median(values))


def table(found: dict[str, list[Figures]]) -> list[list[str]]:
    """Return the figures of each contender."""

    def times(figures: Sequence[Figures], what: str) -> str:
        if not getattr(figures[0], what):
            return "-"
        return " / ".join(f"{middle(figures, what, share):.1f}" for share in (0.5, 0.99))

    return [
        [
            name,
            f"{middle(figures, 'pace'):.1f}",
            times(figures, "new"),
            times(figures, "again"),
            f"{middle(figures, 'cold'):.0f}",
            times(figures, "cold_first"),
            f"{middle(figures, 'shared'):.0f}" if figures[0].shared else "-",
            times(figures, "shared_first"),
        ]
        for name, figures in found.items()
    ]


def speeds(found: dict[str, list[Figures]]) -> Iterator[Goal]:
    """Yield the goals of speed against the contenders that are there."""
    ours = found[OURS]
    for other, least in ((RAW, 0.97), (PEER, 1.0), (LLAMA, 0.95)):
        if other in found:
            seen = middle(ours, "pace") / middle(found[other], "pace")
            yield at_least(f"tokens/s, 1 client, of {other}", least, seen, ".1%")
    for share, most in ((0.5, 3.0), (0.99, 8.0)):
        seen = middle(ours, "again", share) - middle(found[RAW], "again", share)
        yield at_most(f"ms added to the first token, p{share * 100:.0f}", most, seen, ".1f")
    if LLAMA not in found:
        return
    peer = found[LLAMA]
    for what in ("cold", "shared"):
        seen = middle(ours, what) / middle(peer, what)
        yield at_least(f"8 clients, tokens/s, {what}, of {LLAMA}", 1.0, seen, ".1%")
        first = f"{what}_first"
        seen, theirs = middle(ours, first, 0.99), middle(peer, first, 0.99)
        yield at_most(f"8 clients, first token p99, {what}, ms", theirs, seen, ".0f")


def weights(found: dict[str, list[dict[str, float]]]) -> Iterator[Goal]:
    """Yield the goals of memory."""
    ours, raw = found[OURS], found[RAW][0]
    whole = sum(each["pss"] for each in ours)
    yield at_most("router, resident MB", 45, ours[0]["rss"], ".0f")
    yield at_most("all over the raw loop, MB", 50, whole - raw["pss"], ".0f")
    for name in (OURS, SHARING) if LLAMA in found else ():
        share = sum(each["pss"] for each in found[name]) / sum(each["pss"] for each in found[LLAMA])
        yield at_most(f"{name}, all, of {LLAMA}", 0.6, share, ".0%")


def main() -> None:
    """Build, contend, weigh, show, keep."""
    mortal()
    asked = _asked()
    effort = Effort(alone=2, firsts=5, each=1) if asked.quick else Effort()
    kept: dict[str, Any] = {}
    for size in asked.sizes:
        folder = artifact(size, asked.room)
        found, others = contend(folder, asked, effort)
        weighed = weigh(folder, asked)
        goals = [*speeds(found), *weights(weighed)]
        columns = (
            "",
            "tok/s, 1",
            "first ms, new",
            "read before",
            "tok/s, 8",
            "first ms",
            "shared",
            "first ms",
        )
        noise = max(others)
        quiet = (
            "The machine was quiet." if noise <= QUIET else f"NOT QUIET: others used up to {noise:.0%} of it."
        )
        left = [name for name in (PEER, LLAMA) if name not in found]
        notes = f"Times are p50 / p99. {quiet}" + (f" Left out: {', '.join(left)}." if left else "")
        show(f"{size} Q8_0, {THREADS} threads", columns, table(found), notes)
        rows = [
            [name, *(f"{sum(each[what] for each in parts):.0f}" for what in ("rss", "pss"))]
            for name, parts in weighed.items()
        ]
        show("Memory in MB, 8 x 2048 tokens", ("", "resident", "proportional"), rows, "")
        show_goals("", goals)
        kept[size] = {
            "rounds": {name: [vars(each) for each in figures] for name, figures in found.items()},
            "memory": weighed, "goals": [vars(goal) for goal in goals], "others_used": others,
        }  # fmt: skip
    if not asked.quick:
        save("daemon", {}, sizes=kept)


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--sizes", nargs="+", choices=("demo", "77M", "0.5B"), default=["77M", "0.5B"])
    parser.add_argument("--room", type=Path, default=ROOM, help="where models are kept between runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--python", default=sys.executable, help="Python that R and ours run from")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose daemon is ours")
    default = f"--slots {CLIENTS} --pool {CLIENTS * CONTEXT}"
    parser.add_argument("--flags", default=default, help=f"more words to our daemon ({default})")
    parser.add_argument("--peer", help="Python with llama-cpp-python[server], for S")
    parser.add_argument("--llama-server", help="program, for L")
    parser.add_argument("--quick", action="store_true", help="the demo's model, 1 short round: does it work?")
    asked = parser.parse_args()
    if asked.quick:
        asked.sizes, asked.rounds = ["demo"], 1
    return asked


if __name__ == "__main__":
    main()

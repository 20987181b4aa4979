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
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import _load
from _contenders import CLIENTS, LLAMA, OURS, PEER, PROMPT, RAW, SHARING, Effort, Figures, Round, starts
from _goals import Goal, at_least, at_most, show_goals
from _measure import ROOT, progress, save, show
from _served import CONTEXT, ROOM, THREADS, artifact, busy, memory, mortal, prompts

ROUNDS: Final = 5
QUIET: Final = 0.05
"""Share of the processors that others may use, and the machine is called quiet."""


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


def one_client(found: dict[str, list[Figures]]) -> list[list[str]]:
    """Return the lines of the table for one client."""
    return [
        [
            name,
            f"{middle(figures, 'pace'):.1f}",
            f"{middle(figures, 'cpu'):.2f}",
            _times(figures, "new"),
            _times(figures, "again"),
        ]
        for name, figures in found.items()
    ]


def eight_clients(found: dict[str, list[Figures]]) -> list[list[str]]:
    """Return the lines of the table for eight clients."""
    return [
        [
            name,
            f"{middle(figures, 'cold'):.0f}",
            f"{middle(figures, 'cpu_cold'):.2f}",
            _times(figures, "cold_first"),
            f"{middle(figures, 'shared'):.0f}" if figures[0].shared else "-",
            _times(figures, "shared_first"),
        ]
        for name, figures in found.items()
    ]


def _times(figures: Sequence[Figures], what: str) -> str:
    """Return p50 and p99; the raw loop has no shared prompts."""
    if not getattr(figures[0], what):
        return "-"
    return " / ".join(f"{middle(figures, what, share):.1f}" for share in (0.5, 0.99))


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
        alone = ("", "tokens/s", "cpu ms a token", "first ms, new prompt", "first ms, read before")
        show(f"{size} Q8_0, {THREADS} threads, one client", alone, one_client(found), _notes(others, found))
        several = ("", "tokens/s, cold", "cpu ms a token", "first ms", "tokens/s, shared", "first ms")
        show(f"{CLIENTS} clients", several, eight_clients(found), "")
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


def _notes(others: Sequence[float], found: dict[str, list[Figures]]) -> str:
    noise, left = max(others), [name for name in (PEER, LLAMA) if name not in found]
    quiet = "The machine was quiet." if noise <= QUIET else f"NOT QUIET: others used up to {noise:.0%} of it."
    return f"First tokens: p50 / p99. {quiet}" + (f" Left out: {', '.join(left)}." if left else "")


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

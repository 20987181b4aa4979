"""Fifty swaps between two releases while eight clients ask: what is lost by that, and what is slow.

    .venv/bin/python bench/swaps.py [--swaps 50] [--size 77M] [--sequential] [--device] [--quick]

Both releases are the same random model (_random_model.py) under two versions: a real one differs in its
numbers, and a swap does not. The clients, in a process of their own, ask for streams without a pause: first
undisturbed for --steady seconds, then through all swaps. A swap is load, gate with the router's own golden
prompts, promote, and drop of what served before, through the admin API. With --sequential the daemon is given
so little memory that both do not fit, and requests wait while one leaves and the other comes. With --device a
real agent does it on a folder that is a device: activate, gate, confirm; the model is the demo's then.

A request counts as failed where no whole answer came, whatever its status. Latency is from the request to the
end of its answer. Ends with 1 where a request failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import _load
from _goals import Goal, at_most, exactly, show_goals
from _measure import progress, save
from _served import ROOM, artifact, busy, free_port, mortal, prompts, slmopsd

CLIENTS: Final = 8
ANSWER: Final = 32
PROMPT: Final = 64
SLOWER: Final = 2.0
PAUSE: Final = 30.0
"""Seconds that a request waits at most where two versions do not fit."""
ONE_ONLY: Final = 1.5
"""With --sequential: memory for so many of the version."""
Swap = Callable[[int], str]
"""Swaps for the so-manieth time; returns how the version came in."""


@contextmanager
def daemon(asked: argparse.Namespace) -> Iterator[tuple[int, Swap, Path]]:
    """Run the router; yield its port, what swaps, and an artifact's folder."""
    folders = [artifact(asked.size, asked.room, version) for version in ("1.0.0", "1.1.0")]
    more = ["--memory-limit", f"{_memory(folders[0])}"] if asked.sequential else []
    with slmopsd(folders[0], "--slots", "8", *more, python=asked.python) as server:
        yield server.port, lambda number: server.bring(folders[(number + 1) % 2]), folders[0]


@contextmanager
def device(_asked: argparse.Namespace) -> Iterator[tuple[int, Swap, Path]]:
    """Have an agent keep a device; yield its daemon's port, what swaps, and an artifact's folder."""
    from bad_models import Board, Workshop  # noqa: PLC0415 - an operator's side, for this mode alone

    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        workshop, port = Workshop(Path(folder)), free_port()
        good = workshop.good()
        turns = [workshop.sign(good, version) for version in ("1.0.0", "1.1.0")]
        board = Board(Path(folder) / "board", workshop.trust, port)

        def swap(number: int) -> str:
            judged = board.try_out("good", turns[(number + 1) % 2])
            if judged.outcome != "pass":
                sys.exit(f"{judged.code}: {judged.message}")
            return "agent"

        try:
            swap(-1)
            yield port, swap, good
        finally:
            board.end()


def _memory(folder: Path) -> int:
    from slmops.artifact.description import parse  # noqa: PLC0415 - for this mode alone

    return int(parse((folder / "artifact.json").read_bytes()).memory_bytes * ONE_ONLY)


def jobs(folder: Path) -> list[list[dict[str, Any]]]:
    """Return what each client asks for, over and over."""
    drawn = prompts(folder, CLIENTS * 4, PROMPT, 5)
    said = {"max_tokens": ANSWER, "temperature": 0, "stream": True}
    return [[{"prompt": prompt, **said} for prompt in drawn[client::CLIENTS]] for client in range(CLIENTS)]


def play(asked: argparse.Namespace) -> dict[str, Any]:
    """Ask, swap, and return what was seen."""
    with (device if asked.device else daemon)(asked) as (port, swap, folder):
        others = busy()
        with _load.playing(port, jobs(folder)) as got:
            time.sleep(asked.steady)
            began, took, plans = time.monotonic(), list[float](), list[str]()
            for number in range(asked.swaps):
                at = time.monotonic()
                plans.append(swap(number))
                took.append(time.monotonic() - at)
                progress(f"swap {number + 1}/{asked.swaps}: {took[-1]:.1f} s")
            ended = time.monotonic()
    steady = [each.ended - each.sent for each in got if each.ended < began and each.good]
    swapping = [each for each in got if each.ended >= began and each.sent < ended and each.good]
    during = [each.ended - each.sent for each in swapping]
    return {
        "requests": len(got),
        "failed": [vars(each) for each in got if not each.good],
        "swaps": took,
        "plans": plans,
        "steady_p99": _load.quantile(steady, 0.99),
        "during_p99": _load.quantile(during, 0.99),
        "during_longest": max(during),
        "others_used": others,
    }


def goals(seen: dict[str, Any]) -> list[Goal]:
    """Return what is to be so."""
    lost = exactly("requests failed or cut", 0, len(seen["failed"]))
    if "sequential" in seen["plans"]:
        return [lost, at_most("longest request, s", PAUSE, seen["during_longest"], ".1f")]
    most = SLOWER * seen["steady_p99"] * 1000
    return [lost, at_most("p99 during swaps, ms", most, seen["during_p99"] * 1000, ".0f")]


def main() -> None:
    """Play, show, keep."""
    mortal()
    asked = _asked()
    seen = play(asked)
    how = "_".join(sorted(set(seen["plans"])))
    usual = _load.quantile(seen["swaps"], 0.5)
    notes = (
        f"{seen['requests']} requests of {CLIENTS} clients; a swap took {usual:.1f} s (median); the longest "
        f"request {seen['during_longest'] * 1000:.0f} ms; others used {seen['others_used']:.0%}."
    )
    show_goals(f"{len(seen['swaps'])} swaps, {how}", goals(seen), notes)
    for each in seen["failed"][:5]:
        print(each, file=sys.stderr)
    if not asked.quick:
        save(f"swaps_{how}", {}, command=" ".join(["scripts/bench swaps", *sys.argv[1:]]), **seen)
    sys.exit(1 if seen["failed"] else 0)


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--size", choices=("demo", "77M", "0.5B"), default="77M")
    parser.add_argument("--steady", type=float, default=30.0, help="seconds before the first swap (30)")
    parser.add_argument("--room", type=Path, default=ROOM, help="where models are kept between runs")
    parser.add_argument("--python", default=sys.executable, help="Python that the daemon runs from")
    parser.add_argument("--sequential", action="store_true", help="memory for one version only")
    parser.add_argument("--device", action="store_true", help="through the agent of a device")
    parser.add_argument("--quick", action="store_true", help="the demo's model, 3 swaps: does it work?")
    asked = parser.parse_args()
    if asked.quick:
        asked.swaps, asked.size, asked.steady = 3, "demo", 2.0
    return asked


if __name__ == "__main__":
    main()

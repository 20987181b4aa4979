"""Ten minutes of sixteen clients, half of which behave badly: what leaks, what breaks, who suffers for it.

    .venv/bin/python bench/soak.py [--minutes 10] [--size 77M] [--quick]

First the eight good clients alone, for a fifth of the time; then the eight bad ones beside them (_unruly.py):
they leave in the middle, send what is no request, send and read a byte now and then, say nothing. Memory is
that of the router and its worker, read every second: what it is in the last quarter beside the second one. A
good request is one that got a whole answer; their rate is beside what it was alone, and since some of the bad
ones have real work done, it is to be at least half of that. Last, the waiting line is filled, and it is timed
how long one more takes to be told that it is full. Ends with 1 where a request failed or a 5xx was seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

import _load
from _goals import at_least, at_most, exactly, show_goals
from _measure import HERE, progress, save
from _served import ROOM, Server, artifact, busy, memory, mortal, slmopsd
from swaps import jobs

BAD: Final = 8
GROWTH: Final = 1.05
UNAFFECTED: Final = 0.5
TOO_MANY: Final = 429
SERVER_ERROR: Final = 500
FULL_MS: Final = 20.0
SLOTS, SEATS = 2, 2
ASKS: Final = 150
"""Requests that find the line full."""


@contextmanager
def unruly(port: int) -> Iterator[dict[str, int]]:
    """Have bad clients about; what they saw is there when the block is left."""
    words = [sys.executable, str(HERE / "_unruly.py"), str(port), str(BAD), "1"]
    seen: dict[str, int] = {}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield seen
        finally:
            cast("IO[bytes]", process.stdin).close()
            seen |= json.loads(cast("IO[bytes]", process.stdout).read())


def weigh(server: Server, seconds: float) -> list[list[float]]:
    """Return the resident megabytes of each process, every second."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found.append([memory(pid)["rss"] for pid in server.pids()])
        time.sleep(1)
    return found


def growth(weights: list[list[float]], which: int) -> float:
    """Return what a process has in the last quarter, of what it had in the second."""
    values, quarter = [each[which] for each in weights], max(1, len(weights) // 4)
    return statistics.median(values[-quarter:]) / statistics.median(values[quarter : 2 * quarter])


def soak(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Ask alone, then in bad company; return what was seen."""
    seconds = asked.minutes * 60
    with slmopsd(folder, "--slots", "8", python=asked.python) as server:
        others = busy()
        with _load.playing(server.port, jobs(folder)) as alone:
            time.sleep(seconds / 5)
        progress(f"alone: {len(alone)} requests")
        with _load.playing(server.port, jobs(folder)) as beside, unruly(server.port) as seen:
            weights = weigh(server, seconds * 4 / 5)
    return {
        "alone": _rate(alone),
        "beside": _rate(beside),
        "requests": len(beside),
        "failed": [vars(each) for each in (*alone, *beside) if not each.good],
        "seen": seen,
        "growth": [growth(weights, which) for which in (0, 1)],
        "memory": weights,
        "others_used": others,
    }


def full(folder: Path, asked: argparse.Namespace) -> list[float]:
    """Fill all places, ask more; return the milliseconds until each was refused."""
    more = ("--slots", str(SLOTS), "--seats", str(SEATS))
    long = {"prompt": "one two three", "max_tokens": 1500, "temperature": 0, "stream": True}
    with slmopsd(folder, *more, python=asked.python) as server:
        with _load.playing(server.port, [[long]] * (SLOTS + SEATS)):
            time.sleep(1)
            got = _load.play(server.port, [[{**long, "max_tokens": 1}] * ASKS])
        refused = [each for each in got if each.status == TOO_MANY]
        progress(f"{len(refused)} of {len(got)} found the line full")
    return [(each.ended - each.sent) * 1000 for each in refused]


def _rate(got: list[_load.Got]) -> float:
    good = [each for each in got if each.good]
    return len(good) / (max(each.ended for each in good) - min(each.sent for each in good))


def main() -> None:
    """Soak, fill, show."""
    mortal()
    asked = _asked()
    folder = artifact(asked.size, asked.room)
    found, refused = soak(folder, asked), full(folder, asked)
    errors = sum(
        count for word, count in found["seen"].items() if word.isdigit() and int(word) >= SERVER_ERROR
    )
    goals = [
        exactly("good requests failed", 0, len(found["failed"])),
        exactly("answers with 5xx", 0, errors),
        at_most("router's memory, last quarter of the second", GROWTH, found["growth"][0], ".3f"),
        at_most("worker's memory, last quarter of the second", GROWTH, found["growth"][1], ".3f"),
        at_least(
            "good requests a second, of those alone", UNAFFECTED, found["beside"] / found["alone"], ".0%"
        ),
        at_least("requests that found the line full", 1, len(refused)),
        at_most("ms until told so, p99", FULL_MS, _load.quantile(refused, 0.99), ".1f"),
    ]
    told = ", ".join(f"{word} {count}" for word, count in sorted(found["seen"].items()))
    notes = f"The bad ones: {told}. Others used {found['others_used']:.0%} before."
    show_goals(f"{asked.minutes:g} minutes, {found['requests']} good requests", goals, notes)
    for each in found["failed"][:5]:
        print(each, file=sys.stderr)
    if not asked.quick:
        save("soak", {}, **found, refused_ms=refused)
    sys.exit(0 if goals[0].met and goals[1].met else 1)


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", choices=("demo", "77M", "0.5B"), default="77M")
    parser.add_argument("--room", type=Path, default=ROOM, help="where models are kept between runs")
    parser.add_argument("--python", default=sys.executable, help="Python that the daemon runs from")
    parser.add_argument("--quick", action="store_true", help="the demo's model, 20 seconds: does it work?")
    asked = parser.parse_args()
    if asked.quick:
        asked.minutes, asked.size = 1 / 3, "demo"
    return asked


if __name__ == "__main__":
    main()

"""Measure commands in processes of their own: interleaved rounds, medians, a table and a JSON file.

It does not know what is compared. Laws: every case runs once in every round, so that a slow minute of the
machine falls on all of them; every sample is kept; a command that fails ends the benchmark.

A peak of memory is the high-water mark of the resident set, pages of mapped files included, of the process
or of the largest of its children. The kernel hands a child the mark of the process that forked it: a peak
below this process's own is not seen, and nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent
PACKAGES: Final = ("slmops", "torch", "transformers", "gguf", "llama_cpp_python", "paramiko", "typer", "rich")
LAST_WORDS: Final = 20
"""Lines that a command which failed is quoted with."""
WIDE: Final = 120


@dataclass(frozen=True)
class Sample:
    """What one run of a case took."""

    wall_s: float
    cpu_s: float
    """User and system seconds, children included."""
    peak_mb: float
    """Megabytes (10^6) of the resident set at its highest."""
    bytes: int | None = None
    """What the case says it wrote or sent."""


Case = Callable[[], Sample]
Samples = dict[str, list[Sample]]


def quick(doc: str | None) -> bool:
    """Read the command line; return whether --quick was said."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, and 2 rounds: does it work?")
    return bool(parser.parse_args().quick)


def progress(text: str) -> None:
    """Say on standard error what is being done."""
    print(text, file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Sample:
    """Run a command to its end; show its output and end the benchmark if it fails."""
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={**os.environ, **(env or {})}
        )
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").splitlines()[-LAST_WORDS:]
            sys.exit(
                "\n".join([*words, f"{' '.join(map(str, argv))}\nended with exit code {child.returncode}"])
            )
    return Sample(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def rounds(count: int, cases: Mapping[str, Case]) -> Samples:
    """Run every case once a round, in order; return the samples of each."""
    samples: Samples = {name: [] for name in cases}
    for number in range(1, count + 1):
        for name, case in cases.items():
            progress(f"round {number}/{count}  load {os.getloadavg()[0]:.1f}  {name}")
            samples[name].append(case())
    return samples


def median(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure; bytes are the median too, in whole bytes."""
    counted = [sample.bytes for sample in samples if sample.bytes is not None]
    return Sample(
        statistics.median(sample.wall_s for sample in samples),
        statistics.median(sample.cpu_s for sample in samples),
        statistics.median(sample.peak_mb for sample in samples),
        int(statistics.median(counted)) if counted else None,
    )


def peak(megabytes: float) -> str:
    """Show a peak; one that this process's own hides is shown as a bound."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return f"{megabytes:.0f}" if megabytes > own else f"< {own:.0f}"


def ratio(value: float, ours: float) -> str:
    """Show how many times `ours` a value is."""
    return f"{value / ours:.2f}x"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: str) -> None:
    """Print the table and what is to be known of it: the first column is text, the others are figures."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    console.print(drawn)
    console.print(notes, markup=False, style="dim")


def save(name: str, samples: Samples, **facts: Any) -> None:
    """Write bench/results/NAME.json: the machine, the versions, command, medians, every sample of several."""
    said = {
        "benchmark": name,
        "command": " ".join(["scripts/bench", name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": _versions(),
        **facts,
        "medians": {case: asdict(median(taken)) for case, taken in samples.items()},
        "samples": {
            case: [asdict(sample) for sample in taken] for case, taken in samples.items() if len(taken) > 1
        },
    }
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    progress(f"wrote {path.relative_to(ROOT)}")


def machine() -> dict[str, Any]:
    """Return what kind of machine this is, and how busy it is now."""
    cpu = next((_value(line) for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next(_value(line) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return {
        "cpu": cpu or platform.processor(),
        "arch": platform.machine(),
        "cores": os.cpu_count(),
        "memory": memory,
        "system": platform.platform(),
        "load_1_5_15": [round(load, 2) for load in os.getloadavg()],
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _value(line: str) -> str:
    return line.partition(":")[2].strip()

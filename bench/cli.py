"""How long the command line takes to answer, in wall and CPU milliseconds.

Compared: three things slmops says without a network, against the interpreter alone (`python -c pass`) and
against the interpreter with the two libraries that draw the answers (`import typer, rich`). It is fair
because all are the same Python with the same packages, started fresh from a warm disk cache, each once in
every round; the installed `slmops` script is what a person runs. Ratios are of CPU time, which a busy
machine disturbs least.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from _measure import median, progress, quick, ratio, rounds, run, save, show

ROUNDS, QUICK_ROUNDS = 21, 2
BARE, LIBRARIES = "python -c pass", "python -c 'import typer, rich'"


def main() -> None:
    """Measure, print, save."""
    count = QUICK_ROUNDS if quick(__doc__) else ROUNDS
    slmops = Path(sys.executable).with_name("slmops")
    commands: dict[str, list[str | Path]] = {
        BARE: [sys.executable, "-c", "pass"],
        LIBRARIES: [sys.executable, "-c", "import typer, rich"],
        "slmops --help": [slmops, "--help"],
        "slmops status --help": [slmops, "status", "--help"],
        "slmops profile list": [slmops, "profile", "list"],
    }
    with tempfile.TemporaryDirectory() as home:
        env = {"SLMOPS_HOME": home}
        progress("warming the disk cache")
        for argv in commands.values():
            run(argv, env)
        samples = rounds(count, {name: partial(run, argv, env) for name, argv in commands.items()})
    found = {name: median(taken) for name, taken in samples.items()}
    rows = [
        (
            name, f"{one.wall_s * 1000:.0f}", f"{one.cpu_s * 1000:.0f}",
            ratio(one.cpu_s, found[BARE].cpu_s), ratio(one.cpu_s, found[LIBRARIES].cpu_s),
        )
        for name, one in found.items()
    ]  # fmt: skip
    columns = ("command", "wall ms", "CPU ms", "CPU / python", "CPU / typer, rich")
    notes = f"Ratios are of CPU time, children included; {LIBRARIES} is what any such program pays."
    show(f"Command line, medians of {count} rounds", columns, rows, notes)
    save("cli", samples, rounds=count)


if __name__ == "__main__":
    main()

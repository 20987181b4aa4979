"""How the cost of a rollout grows with its fleet: 100, 1,000 and 10,000 devices that are only thought of.

Each goes through four waves; the devices take no time, so that what is left is what the operator's own part
costs: cutting waves, judging every end, keeping the history. Then a driver is killed in the middle and
another takes its rollout up. No peer has such a part: Ansible and pyinfra forget everything between runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from _fake_fleet import Unseen
from _fake_operator import FakeOperator
from _measure import Sample, median, quick, rounds, run, save, show

from slmops.rollout.assignment import State
from slmops.rollout.history import History
from slmops.rollout.machine import State as Stage

WAVES = ["10%", "50%", "100%"]


class KilledError(BaseException):
    """The driver is killed here."""


class DiesAt(Unseen):
    """A watcher with which the driver is killed when so many devices have committed."""

    def __init__(self, count: int) -> None:
        self.left = count

    def device(self, told: Any, state: Any) -> None:
        """Count those that committed."""
        self.left -= told.event is not None and state is State.COMMITTED
        if self.left == 0:
            raise KilledError


def roll_out(count: int, folder: Path, *, killed: bool) -> None:
    """Roll out over `count` devices; where `killed`, say on standard output how long taking it up took."""
    history = History(folder / "rollouts.sqlite")
    operator = FakeOperator(history, count)
    if killed:
        operator.watcher = DiesAt(count // 2)
        try:
            operator.roll_out(waves=WAVES, max_parallel=50)
        except KilledError:
            operator.watcher = Unseen()
        history.close()
        began = time.perf_counter()
        operator.history = history = History(folder / "rollouts.sqlite")
        operator.watcher = Begun(began)
        outcome = operator.go_on()
    else:
        outcome = operator.roll_out(waves=WAVES, max_parallel=50)
    history.close()
    if outcome.rollout.state is not Stage.SUCCEEDED:
        sys.exit(f"{count} devices: the rollout is {outcome.rollout.state.value}: {outcome.why}")
    size = sum(each.stat().st_size for each in folder.iterdir())
    (folder / "size").write_text(str(size))


class Begun(Unseen):
    """A watcher that says how long it took until the next device was worked on."""

    def __init__(self, began: float) -> None:
        self.began, self.told = began, False

    def device(self, _told: Any, state: Any) -> None:
        """Say it once."""
        if not self.told and state is State.SENDING:
            self.told = True
            print(time.perf_counter() - self.began)


def measured(count: int, *, killed: bool) -> Sample:
    """Roll out in a process of its own; `bytes` is what its history takes."""
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        words = [sys.executable, __file__, "--devices", str(count), "--in", folder]
        sample = run([*words, *(["--killed"] if killed else [])])
        return Sample(sample.wall_s, sample.cpu_s, sample.peak_mb, int((Path(folder) / "size").read_text()))


def taken_up(count: int) -> float:
    """Return the seconds until a rollout whose driver was killed works on a device again."""
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        import subprocess  # noqa: PLC0415 - here alone its output is read

        words = [sys.executable, __file__, "--devices", str(count), "--in", folder, "--killed"]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[0])


def main() -> None:
    """Roll out, measure, print, save."""
    if "--devices" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--devices", type=int)
        parser.add_argument("--in", type=Path, dest="folder")
        parser.add_argument("--killed", action="store_true")
        said = parser.parse_args()
        roll_out(said.devices, said.folder, killed=said.killed)
        return
    few = quick(__doc__)
    counts, times = ([100, 400], 2) if few else ([100, 1_000, 10_000], 3)
    samples = rounds(times, {str(count): partial(measured, count, killed=False) for count in counts})
    found = {count: median(samples[str(count)]) for count in counts}
    again = {count: taken_up(count) for count in counts}
    base = found[counts[0]]

    def more(count: int) -> str:
        if count == counts[0]:
            return "-"
        return f"{1000 * (found[count].cpu_s - base.cpu_s) / (count - counts[0]):.2f}"

    rows = [
        (
            f"{count:,}", f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}", more(count),
            f"{one.peak_mb:.0f}", f"{(one.bytes or 0) / count:.0f}", f"{again[count]:.2f}",
        )
        for count, one in found.items()
    ]  # fmt: skip
    steps = list(pairwise(counts))
    growth = [found[larger].cpu_s / found[smaller].cpu_s for smaller, larger in steps]
    show(
        f"A rollout in four waves over devices only thought of, medians of {times} rounds",
        (
            "devices",
            "wall s",
            "CPU s",
            "ms a device more",
            "peak MB",
            "history B a device",
            "taken up after s",
        ),
        rows,
        f"CPU grows by {', '.join(f'{each:.1f}x' for each in growth)} while the fleet grows by "
        f"{', '.join(f'{larger / smaller:.0f}x' for smaller, larger in steps)}; "
        "taken up: from opening the history to the next device, everybody looked at again.",
    )
    save("scale", samples, rounds=times, taken_up_s=again)


if __name__ == "__main__":
    main()

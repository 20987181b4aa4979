"""How long it takes until the old model answers when a release fails on a device.

A real device (an OpenSSH server on loopback) serves the demo model; a broken one is deployed to it, fails its
golden prompts, and goes back. Counted on the device: from the moment the journal says `rolled_back` until the
old model answers `/readyz` again. Beside it, in the same round: how long a daemon with the same model takes
to start and load by itself, which no way back can be shorter than while one daemon serves at a time.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import ROOT, Sample, progress, quick, run, save, show

NAME = "home-commands"
SOON = 0.005
"""Seconds between two looks."""


class Bed:
    """An operator with a good release and a broken one, and one device that serves the good one."""

    def __init__(self, room: Path) -> None:
        self.room, self.home = room, room / "fleet/edge-1/home/.slmops"
        self.env = {"SLMOPS_HOME": str(room / "home"), "NO_COLOR": "1"}
        golden = ROOT / "demo/model/golden.jsonl"
        run([sys.executable, ROOT / "scripts/break_demo_model.py", room / "broken"])
        for model, version in ((ROOT / "demo/model", "1.0.0"), (room / "broken", "1.1.0")):
            self.slmops("quantize", model, "--profile", "local", "--type", "Q8_0", "--name", NAME,
                        "--version", version, "--golden", golden)  # fmt: skip
        run([ROOT / "scripts/fleet-up", "1", room / "fleet"])
        fleet = room / "fleet/fleet.yaml"
        said = fleet.read_text(encoding="utf-8")
        # The same bad release is tried again and again.
        fleet.write_text(
            said.replace("rollout:\n", "rollout:\n  quarantine: {after: 1000}\n"), encoding="utf-8"
        )
        self.deploy: list[str | Path] = ["deploy", fleet, "--yes", "--release"]
        self.slmops(*self.deploy, f"{NAME}:1.0.0")
        self.slot = (self.home / "current").readlink().name

    def slmops(self, *words: str | Path) -> Sample:
        """Run a command of the operator."""
        return run([sys.executable, "-m", "slmops", *words], self.env)

    def way_back(self) -> float:
        """Deploy the broken release; return the seconds from the way back until the old model answers."""
        journal = self.home / "journal.jsonl"
        known = journal.read_bytes().count(b'"rolled_back"')
        words = [sys.executable, "-m", "slmops", *map(str, self.deploy), f"{NAME}:1.1.0"]
        with subprocess.Popen(
            words, env={**os.environ, **self.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as operator:
            while journal.read_bytes().count(b'"rolled_back"') == known:
                time.sleep(SOON)
            last = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
            began: float = next(each["at"] for each in reversed(last) if each["kind"] == "rolled_back")
            self._await_answer()
            took = time.time() - began
            operator.wait()
        return took

    def start(self) -> float:
        """Return the seconds that the supervisor takes to start the daemon anew and it to load the model."""
        pid = json.loads((self.home / "run/daemon.json").read_text(encoding="utf-8"))["child"]["pid"]
        # Its end is noticed at once; the first start after an end waits 0.4 s, which is not counted.
        os.kill(int(pid), 9)
        while self._pid() in (None, pid):
            time.sleep(SOON)
        began = time.time()
        self._await_answer()
        return time.time() - began

    def stop(self) -> None:
        """Stop the device."""
        run([ROOT / "scripts/fleet-down", self.room / "fleet"])

    def _pid(self) -> int | None:
        child = json.loads((self.home / "run/daemon.json").read_text(encoding="utf-8")).get("child")
        return child["pid"] if child else None

    def _await_answer(self) -> None:
        while not self._answers():
            time.sleep(SOON)

    def _answers(self) -> bool:
        try:
            port = int((self.home / "run/port").read_text(encoding="utf-8"))
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/readyz")
            said = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            return False
        return said.get("ready") is True and said.get("digest") == f"sha256:{self.slot}"


def main() -> None:
    """Measure, print, save."""
    times = 3 if quick(__doc__) else 30
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        bed = Bed(Path(folder))
        try:
            back, start = [], []
            for number in range(1, times + 1):
                progress(f"round {number}/{times}  load {os.getloadavg()[0]:.1f}")
                back.append(bed.way_back())
                start.append(bed.start())
        finally:
            bed.stop()
    rows = [
        (name, f"{statistics.median(taken):.2f}", f"{_late(taken):.2f}", f"{max(taken):.2f}")
        for name, taken in (("from the failed gate to an answer", back), ("a daemon's start alone", start))
    ]  # fmt: skip
    show(f"The way back, {times} times", ("", "median s", "p95 s", "longest s"), rows, "demo model, loopback")
    save("way_back", {}, rounds=times, back_s=back, start_s=start)


def _late(taken: list[float]) -> float:
    return sorted(taken)[max(0, -(-95 * len(taken) // 100) - 1)]


if __name__ == "__main__":
    main()

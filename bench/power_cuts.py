"""Cut the power at random moments of an install and boot again: the device serves the old or the new release.

    python bench/power_cuts.py [--cuts 50] [--again 5] [--home DIR] [--only KIND] [--quick]

`machine`: an ARM machine (qemu-system-aarch64, ext4) installs a release. To kill qemu would be too kind: only
the guest's memory were lost, for what reached qemu's disk survives it. So qemu writes down all that the disk
is told (blklogwrites), and each cut is a moment of that record, as many in each phase of it: what was
flushed is there, of what was told since each block is kept or lost by lot. That disk is booted, by its own
kernel and systemd, and asked.

`container`: kill -9 of process 1 of a device with systemd: every process ends at once, no write is lost.

After each the device must serve the old or the new release and answer right, and `slmops device fsck` must
find nothing; after every --again-th the install is repeated and must end with the new release. Needs root and
what `scripts/fleet-up --vm` names. --home: an operator who has the bundles and both releases.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from _disk_log import Lost, cut, read_log
from _measure import ROOT, progress, save, show
from _stock import stock

OLD, NEW = "home-commands:1.0.0", "home-commands:1.0.1"
QUESTION = "turn the kitchen lamp to forty percent"
ANSWER = {"device": "lamp", "room": "kitchen", "action": "set", "value": 40}
PATIENCE = 300
"""Seconds within which a machine that was started serves: emulated, on a busy host."""
BOOT = "systemd.unit=multi-user.target systemd.mask=dev-hugepages.mount systemd.mask=dev-mqueue.mount"
STATES = re.compile(r"edge-1 +(sending|staged|trial|proved|committed)")


@dataclass(frozen=True)
class Outcome:
    """What a device was like after a cut."""

    phase: str
    """The last that the operator was told before the cut."""
    lost: Lost | None
    serves: str | None
    right: bool
    """It answers the question as it should."""
    clean: bool
    """fsck finds nothing."""
    again: str | None
    """What it serves after the install was repeated, where it was."""
    boot_s: float
    """Seconds from power to a healthy answer."""

    @property
    def sound(self) -> bool:
        """Say whether everything is as it must be."""
        return self.serves in {OLD, NEW} and self.right and self.clean and self.again in {None, NEW}


class Site:
    """An operator and a device."""

    def __init__(self, home: Path, folder: Path, profile: str, *words: str) -> None:
        self.home, self.folder, self.device = home, folder, folder / "edge-1"
        self.fleet = folder / "fleet.yaml"
        _script("fleet-up", 1, folder, "--profile", profile, *words)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command of slmops."""
        return subprocess.Popen(
            [sys.executable, "-m", "slmops.cli.app", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "SLMOPS_HOME": str(self.home), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        )  # fmt: skip

    def ask(self, *words: object) -> Any:
        """Run a command; return what it says as JSON, {} when it says nothing."""
        out, _ = self.start(*words, "-o", "json").communicate()
        return json.loads(out) if out.strip() else {}

    def deploy(self, release: str) -> None:
        """Deploy to the end."""
        process = self.start("deploy", self.fleet, "--release", release, "--yes")
        out, err = process.communicate()
        if process.returncode:
            sys.exit(f"{out}{err}\npower_cuts: {release} was not deployed")

    def power(self, word: str) -> None:
        """Press the device's button, or pull its plug."""
        _script("fleet-power", word, self.folder, "edge-1")

    def judged(self, phase: str, lost: Lost | None, *, again: bool) -> Outcome:
        """Start the device after a cut and look at it."""
        began = time.monotonic()
        self.power("on")
        serves = None
        while serves is None and time.monotonic() - began < PATIENCE:
            rows = self.ask("status", self.fleet).get("devices", [])
            serves = next((row["release"] for row in rows if row["health"] == "healthy"), None)
        took = time.monotonic() - began
        answer = self.ask("ask", self.fleet, "edge-1", QUESTION).get("answer", "null")
        checked = self.ask("device", "fsck", "--fleet", self.fleet).get("devices", [{}])[0]
        if not checked.get("clean"):
            progress(json.dumps(checked))
        after = None
        if again:
            self.start("deploy", self.fleet, "--release", NEW, "--yes").communicate()
            after = next((row.get("release") for row in self.ask("status", self.fleet)["devices"]), None)
        return Outcome(
            phase, lost, serves, answer == json.dumps(ANSWER), bool(checked.get("clean")), after, took
        )


def machine(home: Path, room: Path, cuts: int, again: int, lot: random.Random) -> list[Outcome]:
    """Record one install on an ARM machine, and boot what cuts of it leave."""
    site = Site(home, room / "machine", "raspberry-pi-4-2gb", "--vm")
    (site.device / "boot").write_text(BOOT)
    site.deploy(OLD)
    site.power("off")
    disk, log, overlay = (site.device / name for name in ("disk.img", "writes.log", "overlay.qcow2"))
    base = disk.rename(site.device / "base.img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay], check=True)
    log.touch()
    plain = (site.device / "drive").read_text()
    (site.device / "drive").write_text(
        f"-blockdev driver=qcow2,file.driver=file,file.filename={overlay},node-name=below "
        f"-blockdev driver=file,filename={log},node-name=log "
        "-blockdev driver=blklogwrites,file=below,log=log,log-sector-size=512,node-name=disk"
    )
    site.power("on")
    marks = [(log.stat().st_size, "before the install")]
    process = site.start("deploy", site.fleet, "--release", NEW, "--yes")
    told = []
    for line in process.stderr or ():
        told.append(line)
        marks += [(log.stat().st_size, state) for state in STATES.findall(line)]
    if process.wait():
        sys.exit("".join([*told, "power_cuts: the install that was to be cut failed"]))
    site.power("cut")
    (site.device / "drive").write_text(plain)
    writes = read_log(log)
    moments: dict[str, list[int]] = {}
    for at, write in enumerate(writes, 1):
        for name in [name for size, name in marks if size <= write.end][-1:]:
            moments.setdefault(name, []).append(at)
    outcomes = []
    for number, phase in zip(range(1, cuts + 1), cycle(moments), strict=False):
        subprocess.run(["cp", "--sparse=always", base, disk], check=True)
        lost = cut(disk, log, writes, lot.choice(moments[phase]), lot)
        outcomes.append(site.judged(phase, lost, again=number % again == 0))
        progress(f"machine {number}/{cuts}: {outcomes[-1]}")
        site.power("cut")
    return outcomes


def container(home: Path, room: Path, cuts: int, again: int, lot: random.Random) -> list[Outcome]:
    """Kill process 1 of a device with systemd at random moments of an install."""
    site = Site(home, room / "container", "local", "--systemd")
    site.deploy(OLD)
    site.power("off")
    upper, kept = site.device / "disk/upper", site.device / "disk/kept"
    subprocess.run(["cp", "-a", upper, kept], check=True)
    site.power("on")
    began = time.monotonic()
    site.deploy(NEW)
    whole = time.monotonic() - began
    outcomes = []
    for number in range(1, cuts + 1):
        site.power("cut")
        shutil.rmtree(upper)
        subprocess.run(["cp", "-a", kept, upper], check=True)
        site.power("on")
        process = site.start("deploy", site.fleet, "--release", NEW, "--yes")
        time.sleep(lot.uniform(0, whole))
        site.power("cut")
        process.kill()
        phase = ("before the install", *STATES.findall(process.communicate()[1]))[-1]
        outcomes.append(site.judged(phase, None, again=number % again == 0))
        progress(f"container {number}/{cuts}: {outcomes[-1]}")
    return outcomes


def _script(name: str, *words: object) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / name, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\npower_cuts: {name} failed")


def main() -> None:
    """Cut, boot, count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--again", type=int, default=5, help="repeat the install after every n-th cut")
    parser.add_argument("--home", type=Path, help="SLMOPS_HOME of an operator who has it all")
    parser.add_argument("--only", choices=("machine", "container"))
    parser.add_argument("--quick", action="store_true", help="3 cuts: does it work?")
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # devices are switched off in every case
    cuts, again = (3, 2) if said.quick else (said.cuts, said.again)
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="slmops-cuts-") as name:
        room = Path(name)
        home = said.home or room / "home"
        if not said.home:
            stock(home, ("local", "raspberry-pi-4-2gb"), {OLD: "Q8_0", NEW: "Q4_K_M"})
        for kind, work in (("container", container), ("machine", machine)):
            if said.only in {None, kind}:
                try:
                    found[kind] = work(home, room, cuts, again, random.Random(1))  # noqa: S311 - the same cuts
                finally:
                    _script("fleet-down", room / kind)
    report(found)


def report(found: dict[str, list[Outcome]]) -> None:
    """Print a row for each phase that cuts fell into, and save every outcome."""
    rows = []
    for kind, outcomes in found.items():
        for phase, count in Counter(outcome.phase for outcome in outcomes).items():
            of = [outcome for outcome in outcomes if outcome.phase == phase]
            again = [outcome for outcome in of if outcome.again]
            counts = [
                count,
                sum(outcome.serves == OLD for outcome in of),
                sum(outcome.serves == NEW for outcome in of),
                sum(outcome.right for outcome in of),
                sum(outcome.clean for outcome in of),
                f"{sum(outcome.again == NEW for outcome in again)}/{len(again)}",
                sum(outcome.lost.lost_blocks for outcome in of if outcome.lost),
                sum(not outcome.sound for outcome in of),
            ]
            rows.append([f"{kind}: {phase}", *map(str, counts)])
    columns = ("cut after", "cuts", "old", "new", "answers", "clean", "again", "lost 4k", "broken")
    show("Power cuts in an install", columns, rows, "lost 4k: blocks that the disk was told and a cut took.")
    save("power_cuts", {}, outcomes={kind: [asdict(o) for o in outcomes] for kind, outcomes in found.items()})


if __name__ == "__main__":
    main()

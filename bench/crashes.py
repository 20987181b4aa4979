"""Kill an agent at every system call that changes something, fail its disk, and see what is left.

Each step of an install (and the way back, mending, freeing, a newer agent) runs once to list its system
calls, then once for every one of them: killed at its door, or told that the disk is full or broken. After
each run:

- what `current` names is a whole slot, and the old one or the new one (never a third, never a mixture);
- nothing outside the agent's directory changed, and no more disk is taken than both releases need;
- no file counts as received or staged whose sync failed;
- `fsck` mends what it finds and then finds nothing; the install, done again, ends committed on the new slot.

The first three hold at once, with nobody's help. Nothing is random: two runs try the same points.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _box import TIMES, Box, Shop, copy, until
from _measure import HERE, machine, progress

from slmops import wire
from slmops.device import journal, slots
from slmops.device.places import Places
from slmops.errors import IntegrityError
from slmops.wire import Request

CALLS = (
    *("openat", "write", "fsync", "ftruncate", "truncate", "rename", "link", "symlink", "unlink", "unlinkat"),
    *("mkdir", "rmdir", "chmod", "fchmodat", "flock", "kill", "vfork"),
)
DISK = ("write", "fsync")
"""Calls that are also told of a full disk and of a broken one."""
SLACK = 400_000
"""Bytes over the files of both releases: manifests, journal, logs, what is set aside for a full disk."""
LONG = 1e6
"""Seconds that a trial of a template lasts: the campaign takes longer than a real one."""


@dataclass(frozen=True)
class Step:
    """Something an agent does, the state it begins in, and how it is asked."""

    name: str
    template: Path
    verb: str
    feed: bytes
    agent: Path
    supervised: bool = False
    """A supervisor runs beside it."""


@dataclass
class Tally:
    """What was tried, and what broke."""

    points: int = 0
    runs: int = 0
    breaks: list[str] = field(default_factory=list)
    by_step: dict[str, dict[str, int]] = field(default_factory=dict)


class Bed:
    """One device that is broken again and again, always under the same path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outside = folder / "tmp"
        self.outside.mkdir()
        os.environ["TMPDIR"] = str(self.outside)
        shop = Shop(folder)
        self.old, self.new, self.other = (shop.release(version) for version in ("1.0.0", "2.0.0", "3.0.0"))
        (folder / "device").mkdir()
        self.box = Box(folder / "device/root", shop)
        self.places = self.box.places
        self.beside: subprocess.Popen[bytes] | None = None
        size = sum(len(data) for parcel in (self.old, self.new) for data in parcel.files.values())
        self.most = size + len(self.box.agent.read_bytes()) * 2 + SLACK

    def template(self, name: str) -> Path:
        """Keep the device as it is now, at rest."""
        self.box.end()
        kept = self.folder / f"template-{name.replace(' ', '-')}"
        copy(self.places.root, kept)
        return kept

    def steps(self) -> Iterator[Step]:
        """Bring the device through an install once, and yield each step with the state it begins in."""
        box, new = self.box, self.new
        box.install(self.old)
        base = self.template("base")
        yield self._step("prepare", base, box.prepare(new))
        with box.session() as ask:
            for name, data, said in box.requests(new, ask):
                verb = name.split()[0]
                if name == verb:
                    yield self._step(verb, self.template(verb), said, data)
                ask(verb, data, **(said | {"confirm_seconds": LONG} if verb == "activate" else said))
        yield self._step("gc", self._cluttered(), {})
        copy(base, self.places.root)
        self.places.journal.unlink()
        yield self._step("fsck", self.template("fsck"), {"repair": True}, name="mend a lost journal")
        copy(base, self.places.root)
        newer = box.lay(box.agent.read_bytes() + b"\n")
        agent = Step("renew", self.template("renew"), "update-self", _line("update-self", {}), newer)
        yield Step(**{**vars(agent), "supervised": True})
        copy(base, self.places.root)
        box.install(new, until="stage")
        journal.append(self.places, "activated", slot=new.slot, boot="another", deadline=1.0)
        yield Step("go back", self.template("back"), "supervise", b"", box.agent)

    def _step(
        self, verb: str, template: Path, said: dict[str, Any], data: bytes = b"", name: str = ""
    ) -> Step:
        return Step(name or verb, template, verb, _line(verb, said) + data, self.box.agent)

    def _cluttered(self) -> Path:
        """Leave on the device what a device that lives long collects."""
        self.box.install(self.other, until="activate")
        with self.box.session() as ask:
            said = {"slot": self.other.slot, "code": "OPERATOR", "message": "no", **TIMES}
            ask("roll-back", b"", **said)
        torn = self.places.slots / f".{'0' * 64}" / "files"
        torn.mkdir(parents=True)
        (torn / "model.gguf").write_bytes(b"half")
        self.box.lay(self.box.agent.read_bytes() + b"\n")
        return self.template("gc")

    def run(self, step: Step, trace: str, inject: str = "") -> tuple[int, str, str]:
        """Run a step on its template; return its exit code, what it answered and what strace wrote."""
        copy(step.template, self.places.root)
        if step.supervised:
            with suppress(FileNotFoundError):
                self.places.supervisor.unlink()
            self.beside = subprocess.Popen(
                self.box.words("supervise"), stderr=subprocess.DEVNULL, start_new_session=True
            )
            until(lambda: self.box.supervisor() is not None and self.places.port.exists())
        log = self.folder / "strace"
        words = ["strace", "-qq", "-s", "4096", "-o", str(log), "-e", f"trace={trace}"]
        words += ["-e", f"inject={inject}"] if inject else []
        words += self.box.words(step.verb, step.agent)
        with tempfile.TemporaryFile(dir=self.folder) as feed:
            feed.write(step.feed)
            feed.seek(0)
            process = subprocess.Popen(
                words, stdin=feed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
            if step.verb == "supervise":
                self._let_it_go_back(process)
            out, _ = process.communicate()
        return process.returncode, out.decode(errors="replace"), log.read_text(errors="replace")

    def _let_it_go_back(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the supervisor serves the old slot again, then end it; or until it is dead."""

        def settled() -> bool:
            standing = journal.standing(self.places)
            serving = standing.slot == self.old.slot and standing.trial is None and self.places.port.exists()
            return serving or process.poll() is not None

        until(settled)
        # Not by what it wrote down of itself: that may be what the disk refused.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for pid in children.read_text().split() if children.exists() else ():
            os.kill(int(pid), signal.SIGTERM)

    def points(self, step: Step) -> dict[str, list[int]]:
        """Return which calls of each kind change something: a file that is only read is left out."""
        _, _, log = self.run(step, ",".join(f"?{call}" for call in CALLS))
        seen: dict[str, int] = dict.fromkeys(CALLS, 0)
        found: dict[str, list[int]] = {call: [] for call in CALLS}
        for text in log.splitlines():
            call = text.partition("(")[0]
            if call not in seen:
                continue
            seen[call] += 1
            opened = re.search(r"O_CREAT|O_WRONLY|O_RDWR", text) and str(self.places.root) in text
            if call != "openat" or opened:
                found[call].append(seen[call])
        self.rest()
        return found

    def wrong(self) -> Iterator[str]:
        """Yield which laws the device breaks as it is now, with nobody's help."""
        lawful = {self.old.slot, self.new.slot}
        standing = journal.standing(self.places)
        if standing.slot not in lawful:
            yield f"the journal says {standing.slot} serves"
        there = self.places.current.resolve().name
        if there not in lawful:
            yield f"current names {there}"
        for slot in {there, standing.slot} & lawful:
            try:
                slots.verify(self.places, str(slot))
            except (IntegrityError, OSError) as error:
                yield f"what serves is not whole: {error}"
        if strangers := [*self.outside.iterdir(), *(self.folder / "device").glob("[!r]*")]:
            yield f"outside the agent's directory: {[path.name for path in strangers]}"
        if (taken := _taken(self.places)) > self.most:
            yield f"{taken} bytes taken, {self.most} are enough"

    def healed(self, *, full: bool) -> Iterator[str]:
        """Mend the device and install again; yield what did not come out right."""
        with self.box.session() as ask:
            ask("fsck", repair=True)
            if found := ask("fsck")["findings"]:
                yield f"fsck after mending: {found}"
        self.box.install(self.new, until="confirm" if full else "stage")
        if full:
            with self.box.session() as ask:
                said = ask("status")
            standing = said["standing"]
            if (standing["slot"], standing["trial"], said["healthy"]) != (self.new.slot, None, True):
                yield f"installed again, it stands at {standing}, healthy: {said['healthy']}"
        else:
            slots.verify(self.places, self.new.slot)
            if journal.standing(self.places).slot not in (self.old.slot, self.new.slot):
                yield "staged again, it does not serve the old slot"

    def rest(self) -> None:
        """End what runs, and empty what the device left outside, so that it is told of once."""
        self.box.end()
        if self.beside is not None:
            self.beside.wait()
            self.beside = None
        for path in self.outside.iterdir():
            subprocess.run(["rm", "-rf", path], check=True)


def campaign(bed: Bed, *, every: int, full_every: int, only: str = "") -> Tally:
    """Try every `every`-th point of each step; every `full_every`-th is activated again, daemon and all."""
    tally = Tally()
    # All of them first: each run leaves the device as it is.
    for step in list(bed.steps()):
        if only and step.name != only:
            continue
        here = Tally()
        began = time.monotonic()
        found = bed.points(step)
        tries = [
            (call, number, f"{call}:signal=KILL:when={number}") for call in CALLS for number in found[call]
        ]
        tries += [
            (call, number, f"{call}:error={error}:when={number}")
            for call in DISK
            for error in ("ENOSPC", "EIO")
            for number in found[call]
        ]
        for at, (call, _, inject) in enumerate(tries):
            if at % every:
                continue
            here.points += "signal" in inject
            here.runs += 1
            full = step.name in ("activate", "confirm", "go back") or here.runs % full_every == 0
            here.breaks += [
                f"{step.name}, {inject}: {text}" for text in _tried(bed, step, call, inject, full=full)
            ]
        tally.points += here.points
        tally.runs += here.runs
        tally.breaks += here.breaks
        tally.by_step[step.name] = {"points": here.points, "runs": here.runs, "breaks": len(here.breaks)}
        progress(
            f"{step.name}: {here.points} crash points, {here.runs} runs, {len(here.breaks)} breaks, "
            f"{time.monotonic() - began:.0f} s"
        )
        for text in here.breaks:
            progress(f"  {text[:400]}")
    return tally


def _tried(bed: Bed, step: Step, call: str, inject: str, *, full: bool) -> list[str]:
    """Break one step at one point; return what was wrong then."""
    _code, out, log = bed.run(step, call, inject)
    wrong = list(bed.wrong())
    done = any(reply and reply.kind == "done" for reply in map(wire.parse_reply, out.splitlines()))
    if done and "INJECTED" in log and call == "fsync" and step.name in ("prepare", "receive", "stage"):
        wrong.append("it said done after a sync that failed")
    try:
        wrong += bed.healed(full=full)
    except (RuntimeError, TimeoutError, IntegrityError, OSError) as error:
        wrong.append(f"it does not heal: {error}")
    bed.rest()
    return wrong


def _line(verb: str, said: dict[str, Any]) -> bytes:
    return wire.render_request(Request(verb, said))


def _taken(places: Places) -> int:
    """Return the bytes of all files under the root, each counted once whatever its names."""
    seen = {}
    for path in places.root.rglob("*"):
        with suppress(OSError):
            stat = path.lstat()
            seen[stat.st_ino] = stat.st_size if path.is_file() and not path.is_symlink() else 0
    return sum(seen.values())


def main() -> None:
    """Run the campaign and write what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every 12th point")
    parser.add_argument("--step", default="", help="one step alone")
    said = parser.parse_args()
    shared = Path("/dev/shm")  # noqa: S108 (kills and errors are the same in memory, and faster)
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        began = time.monotonic()
        bed = Bed(Path(folder))
        tally = campaign(bed, every=12 if said.quick else 1, full_every=10, only=said.step)
    print(f"{tally.points} crash points, {tally.runs} runs, {len(tally.breaks)} invariant breaks")
    if not (said.quick or said.step):
        facts = {"benchmark": "crashes", "machine": machine(), "seconds": round(time.monotonic() - began)}
        text = json.dumps({**facts, **vars(tally)}, indent=1)
        (HERE / "results/crashes.json").write_text(text + "\n")
    sys.exit(bool(tally.breaks))


if __name__ == "__main__":
    main()

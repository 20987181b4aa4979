"""Kill the router, its workers, or both, after every record of its journal, until a gated version answers.

    .venv/bin/python bench/router_kills.py [--size 77M] [--quick]

A router is started with a version, loads another, gates it, promotes it and rolls it back; one run without a
kill says what it writes down on the way. Then, for each of these records and each of the three victims, the
same is done anew, and SIGKILL is sent as soon as the record is on disk. A router that was killed is started
again at once, as a supervisor does. The time is from the kill to the first whole answer, less what loading
the model takes, and the answer must come from a version that the journal says was gated. Ends with 1 where
one did not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from _goals import at_most, exactly, show_goals
from _measure import ROOT, progress, save, show
from _served import ROOM, artifact, busy, end, free_port, mortal, named, tree

VICTIMS: Final = ("router", "workers", "both")
MOST: Final = 2.0
PATIENCE: Final = 120.0
ASKED: Final = {"prompt": "one two three", "max_tokens": 2, "temperature": 0}


@dataclass
class Site:
    """A router that may be killed and started again, on one port with one journal."""

    folder: Path
    first: Path
    second: Path
    python: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the router; do not wait for it."""
        words = [self.python, "-m", "slmops.daemon", "--artifact", self.first, "--digest", named(self.first)]
        words += ["--port", str(self.port), "--state", self.folder / "state"]
        words += ["--admin", self.folder / "admin.sock"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, words)), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def again(self) -> None:
        """Start the router that was killed."""
        if self.process is not None:
            self.process.wait()
        self.start()

    def records(self) -> list[dict[str, Any]]:
        """Return what the journal says now; a line that is being written is left out."""
        found = []
        with suppress(OSError):
            for line in (self.folder / "state/versions.jsonl").read_bytes().splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def drive(self) -> None:
        """Do what is to be interrupted, once it serves; a router that went away ends it."""
        self.answer()
        door = httpx.HTTPTransport(uds=str(self.folder / "admin.sock"))
        bring = {"folder": str(self.second), "digest": named(self.second)}
        with (
            suppress(httpx.HTTPError),
            httpx.Client(transport=door, base_url="http://a", timeout=60) as client,
        ):
            for verb, said in (
                ("load", bring), ("gate", {"digest": bring["digest"]}),
                ("promote", {"digest": bring["digest"]}), ("rollback", {}),
            ):  # fmt: skip
                if not client.post(f"/admin/v1/{verb}", json=said).is_success:
                    return

    def answer(self, patience: float = PATIENCE) -> str:
        """Wait for a whole answer; return the digest of what gave it, empty when none came."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                said = httpx.post(f"http://127.0.0.1:{self.port}/v1/completions", json=ASKED, timeout=60)
                if said.is_success:
                    return str(said.json()["system_fingerprint"])
            time.sleep(0.005)
        return ""

    def end(self) -> None:
        """End the router and all that it started."""
        if self.process is not None:
            end(self.process)


def trial(site: Site, point: int, victim: str) -> dict[str, Any]:
    """Kill `victim` after record number `point`; return what became of it."""
    site.start()
    driver = threading.Thread(target=site.drive)
    driver.start()
    kind, killed = _strike(site, point, victim)
    if victim != "workers":
        site.again()
    digest = site.answer()
    took = time.monotonic() - killed
    driver.join()
    gated = {each.get("digest") for each in site.records() if each.get("kind") in {"gated", "kept"}}
    return {"point": point, "kind": kind, "victim": victim, "seconds": took, "gated": digest in gated}


def _strike(site: Site, point: int, victim: str) -> tuple[str, float]:
    """Wait for the record, and kill; return its kind and the time."""
    process, until = site.process, time.monotonic() + PATIENCE
    assert process is not None  # noqa: S101 - it was just started
    while len(site.records()) <= point:
        if time.monotonic() > until:
            sys.exit(f"there is no record {point}\n{(site.folder / 'log').read_text()}")
        time.sleep(0.001)
    family = tree(process.pid)
    chosen = {"router": family[:1], "workers": family[1:], "both": family}[victim]
    for pid in chosen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    return str(site.records()[point].get("kind")), killed


def sites(asked: argparse.Namespace) -> Generator[Site]:
    """Yield a new router's place, again and again, each ended when the next is asked for."""
    first, second = (artifact(asked.size, asked.room, version) for version in ("1.0.0", "1.1.0"))
    while True:
        with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
            site = Site(Path(folder), first, second, asked.python, free_port())
            try:
                yield site
            finally:
                site.end()


def clean(site: Site) -> tuple[list[str], float]:
    """Run without a kill; return the kinds of records, and the seconds that loading the model took."""
    site.start()
    if not site.answer():
        sys.exit(f"the router does not answer\n{(site.folder / 'log').read_text()}")
    door = httpx.HTTPTransport(uds=str(site.folder / "admin.sock"))
    with httpx.Client(transport=door, base_url="http://admin") as client:
        (version,) = client.get("/admin/v1/status").json()["versions"]
    site.drive()
    return [str(each.get("kind")) for each in site.records()], float(version["ready_seconds"])


def main() -> None:
    """Run once without a kill, then kill at every point."""
    mortal()
    asked = _asked()
    places = sites(asked)
    kinds, load = clean(next(places))
    progress(f"records: {', '.join(kinds)}; loading takes {load:.2f} s")
    points = [number for number in range(len(kinds)) if not asked.quick or number == len(kinds) - 2]
    found, others = list[dict[str, Any]](), busy()
    for point in points:
        for victim in VICTIMS:
            found.append(trial(next(places), point, victim))
            progress(f"{kinds[point]} {victim}: {found[-1]['seconds']:.2f} s")
    places.close()
    rows = [
        [
            f"{point} {kinds[point]}",
            *(f"{one['seconds'] - load:.2f}" for one in found if one["point"] == point),
        ]
        for point in points
    ]
    show("Seconds without an answer, less loading", ("killed after", *VICTIMS), rows, "")
    goals = [
        at_most("seconds over loading, at most", MOST, max(one["seconds"] for one in found) - load, ".2f"),
        exactly("answers of what was not gated", 0, sum(not one["gated"] for one in found)),
    ]
    show_goals(f"{len(found)} kills", goals, f"Loading takes {load:.2f} s; others used {others:.0%}.")
    if not asked.quick:
        save("router_kills", {}, kills=found, load=load, others_used=others)
    sys.exit(0 if goals[1].met else 1)


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--size", choices=("demo", "77M", "0.5B"), default="77M")
    parser.add_argument("--room", type=Path, default=ROOM, help="where models are kept between runs")
    parser.add_argument("--python", default=sys.executable, help="Python that the daemon runs from")
    parser.add_argument("--quick", action="store_true", help="the demo's model, one point: does it work?")
    asked = parser.parse_args()
    if asked.quick:
        asked.size = "demo"
    return asked


if __name__ == "__main__":
    main()

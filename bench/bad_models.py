"""Plant a bad model of each kind on a device that serves a good one, and see whether its gate lets it stay.

    .venv/bin/python bench/bad_models.py [--repeats 200] [--kinds "head cut" ...] [--quick]

A release is made of demo/model with `slmops quantize`, golden prompts and references as by default. Each bad
one is signed like the good one and tried by a real agent and a real daemon, in a folder of this machine,
with the gate that the fleet file has by default; then good ones follow each other `--repeats` times. What
is asked: every bad one goes back, at most 1 % of the good ones do. Ends with 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from _measure import ROOT, progress
from _planted import KINDS, plant
from rich.console import Console
from rich.table import Table

from slmops import digest as digests
from slmops import wire
from slmops.artifact import amendment, manifest, sign
from slmops.artifact import description as descriptions
from slmops.artifact import trust as trusts
from slmops.artifact.trust import RELEASE, SignedTrust
from slmops.artifact.trust import ROOT as ROOT_ROLE
from slmops.device import prepare, receive, stage
from slmops.device.places import Places, read_json
from slmops.errors import ModelError
from slmops.fleet.agent_bundle import bundle
from slmops.fleet.gate import Gate
from slmops.registry import catalog
from slmops.registry.layout import Layout
from slmops.registry.release import artifact, find, publish
from slmops.wire import Request

MODEL: Final = ROOT / "demo/model"
CREATED: Final = "2026-01-01T00:00:00Z"
TIMES: Final = {"ready_seconds": 30.0, "gate_seconds": 120.0, "confirm_seconds": 60.0}
QUICK: Final = ("scales of one layer 10 % off", "tokenizer swapped", "answers empty")
QUICK_REPEATS: Final = 5
MOST_ALARMS: Final = 0.01
PATIENCE: Final = 30.0
LONG: Final = 70


@dataclass(frozen=True)
class Parcel:
    """A signed release for the one profile it has, and the folder that it was made of."""

    said: dict[str, Any]
    slot: str
    folder: Path


@dataclass(frozen=True)
class Judged:
    """What became of one activation."""

    kind: str
    outcome: str
    code: str
    message: str
    measured: dict[str, Any]
    seconds: float


class Workshop:
    """Makes the good release, and signs whatever it is given."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._key, root = room / "key", room / "root"
        for key, comment in ((self._key, "release"), (root, "root")):
            sign.make_key(key, comment)
        keys = {
            ROOT_ROLE: [root.with_suffix(".pub").read_text()],
            RELEASE: [self._key.with_suffix(".pub").read_text()],
        }
        document = trusts.render(amendment.first(CREATED, None, keys, {}))
        self.trust = [trusts.said(SignedTrust(document, (sign.sign(document, root, sign.TRUST),)))]
        self._made = 0

    def good(self) -> Path:
        """Return the folder of the artifact that `slmops quantize` makes of the demo's model."""
        home, folder = self._room / "home", self._room / "good"
        said = f"quantize {MODEL} --profile local:gguf:Q4_K_M --name extract --version 1.0.0"
        command = [sys.executable, "-m", "slmops", *said.split()]
        done = subprocess.run(
            command, env={**os.environ, "SLMOPS_HOME": str(home)}, capture_output=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr.decode(errors="replace"))
        layout = Layout(home / "registry")
        built = artifact(layout, find(layout, catalog.parse("extract:1.0.0")).release.entry("local"))
        folder.mkdir()
        for name, blob in built.files:
            (folder / name).write_bytes(layout.get(blob))
        return folder

    def sign(self, folder: Path, version: str) -> Parcel:
        """Return `folder`, called by `version`, as a signed release."""
        self._made += 1
        own = self._room / f"signed-{self._made}"
        shutil.copytree(folder, own)
        said = json.loads((own / descriptions.FILE_NAME).read_text(encoding="utf-8"))
        (own / descriptions.FILE_NAME).write_text(json.dumps({**said, "version": version}), encoding="utf-8")
        layout = Layout(self._room / f"registry-{self._made}")
        signed = publish(layout, {"local": own}, created=CREATED, key=self._key)
        entry = signed.release.entry("local")
        whole = {
            "index": signed.index.decode(),
            "signatures": [signature.decode() for signature in signed.signatures],
            "manifest": manifest.render_artifact(artifact(layout, entry)).decode(),
            "profile": "local",
        }
        return Parcel(whole, digests.hexdigits(entry.blob.digest), own)


class Board:
    """A device in a folder: the real agent, its supervisor, and the daemon of this installation."""

    def __init__(self, root: Path, trust: list[Any], port: int = 0) -> None:
        self.places = Places(root)
        data = bundle().data
        self._agent = root / "agent" / f"{digests.short(digests.of_bytes(data))}.pyz"
        self._agent.parent.mkdir(parents=True)
        self._agent.write_bytes(data)
        settings = {"device": "board", "profile": "local", "port": port, "service": "process"}
        self.ask("hello")
        self.ask("enroll", trust=trust, runtime=[sys.executable], **settings)

    def ask(self, verb: str, **said: Any) -> dict[str, Any]:
        """Ask the agent for a verb; return its answer, or end the bench with its refusal."""
        words = [sys.executable, "-I", "-S", str(self._agent), str(self.places.root), verb]
        line = wire.render_request(Request(verb, said))
        done = subprocess.run(words, input=line, capture_output=True, check=False)
        replies = [wire.parse_reply(text) for text in done.stdout.decode().split("\n")[:-1]]
        last = replies[-1] if replies else None
        if last is None or last.kind != "done":
            sys.exit(f"{verb}: {last or done.stderr.decode(errors='replace')}")
        return last.said

    def try_out(self, kind: str, parcel: Parcel) -> Judged:
        """Stage a release, put it on trial, and confirm it where it passes."""
        missing = prepare.make_ready(self.places, parcel.said)["missing"]
        for each in missing:
            data = (parcel.folder / each["name"]).read_bytes()
            told = {"slot": parcel.slot, "name": each["name"], "offset": 0, "length": len(data)}
            receive.take(self.places, told, io.BytesIO(data).read)
        stage.make_slot(self.places, parcel.slot)
        began = time.monotonic()
        said = self.ask("activate", slot=parcel.slot, gate=Gate().said(), **TIMES)
        took = time.monotonic() - began
        if said["outcome"] == "pass":
            self.ask("confirm", slot=parcel.slot)
        measured = said["evidence"].get("measured", {})
        return Judged(kind, said["outcome"], said["code"], said["message"], measured, took)

    def end(self) -> None:
        """Leave no process behind."""
        for said in (read_json(self.places.supervisor), (read_json(self.places.daemon) or {}).get("child")):
            if said:
                _end(said["pid"])


def _end(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def main() -> None:
    """Plant, try, and show."""
    asked = _asked()
    kinds = asked.kinds or (QUICK if asked.quick else tuple(KINDS))
    repeats = asked.repeats if asked.repeats is not None else QUICK_REPEATS if asked.quick else 200
    with tempfile.TemporaryDirectory(prefix="slmops-bad-") as folder:
        room = Path(folder)
        workshop = Workshop(room)
        progress("making the good release")
        good = workshop.good()
        board = Board(room / "board", workshop.trust)
        try:
            turns = [workshop.sign(good, version) for version in ("1.0.0", "1.0.1")]
            first = board.try_out("good", turns[0])
            bad = [
                _judged(board, workshop, kind, plant(kind, good, MODEL, room / f"planted-{number}"))
                for number, kind in enumerate(kinds)
            ]
            well = [first]
            for number in range(1, repeats):
                well.append(board.try_out("good", turns[number % 2]))
                if number % 20 == 0:
                    progress(f"{number} good ones, {_alarms(well)} false alarms")
        finally:
            board.end()
    _show(bad, well)
    if asked.save:
        asked.save.write_text(json.dumps([vars(one) for one in (*bad, *well)]), encoding="utf-8")
    missed = [one.kind for one in bad if one.outcome == "pass"]
    sys.exit(1 if missed or _alarms(well) > MOST_ALARMS * len(well) else 0)


def _judged(board: Board, workshop: Workshop, kind: str, folder: Path) -> Judged:
    try:
        judged = board.try_out(kind, workshop.sign(folder, "2.0.0"))
    except ModelError as error:
        judged = Judged(kind, "refused", f"{error.code} (registry)", str(error), {}, 0.0)
    progress(f"{kind}: {judged.outcome} {judged.code}: {judged.message}")
    return judged


def _alarms(well: list[Judged]) -> int:
    return sum(one.outcome != "pass" for one in well)


def _show(bad: list[Judged], well: list[Judged]) -> None:
    table = Table("kind", "caught", "by", "why", "s", title="Bad models, planted")
    for one in bad:
        caught = "no" if one.outcome == "pass" else "yes"
        table.add_row(one.kind, caught, one.code, one.message[:LONG], f"{one.seconds:.1f}")
    console = Console(width=140)
    console.print(table)
    for one in (one for one in well if one.outcome != "pass"):
        console.print(f"false alarm: {one.code}: {one.message}")
    seconds = [one.seconds for one in well]
    console.print(
        f"{len(well)} good ones: {_alarms(well)} false alarms; a switch took "
        f"{statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s at most"
    )


def _asked() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--repeats", type=int, help="good releases, one after the other (200)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="which bad ones (all)")
    parser.add_argument("--quick", action="store_true", help="three kinds and 5 repeats: does it work?")
    parser.add_argument("--save", type=Path, help="file for all that was measured, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()

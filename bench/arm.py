"""On an emulated ARM device: sizes, time to the first answer, and whether a model thinks there as here.

    python bench/arm.py [--home DIR] [--quick]

A Debian for ARM under qemu-user, as a Cortex-A53, A72 and A76 (the last has the dot product, and llama.cpp
runs other code there). Each gets agent, runtime bundle and release from nothing. Then the same GGUF files
read the same text here and there: how often both think the same token likeliest, the greatest difference of
a logit, and KL(here || there). Seconds are those of an emulator on a busy machine and say nothing of a
device; bytes do.

Needs root and what `scripts/fleet-up --arch arm64` names. --home: an operator who has the bundle and the
release, instead of making them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _measure import ROOT, progress, save, show
from _stock import stock

from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
from slmops.fleet import agent_bundle

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")
PROFILE = "raspberry-pi-4-2gb"
RELEASE = "home-commands:1.0.0"
QUESTION = "turn the kitchen lamp to forty percent"
STORIES = ROOT.parent / "shared/models/stories260k"
TYPES = ("Q8_0", "Q4_K_M", "Q4_0")
TOKENS = 256
READER = Path(__file__).parent / "_next_tokens.py"
Rows = npt.NDArray[np.float32]
Words = Sequence[str | Path]


class Device:
    """An ARM device of one kind, and its operator."""

    def __init__(self, home: Path, folder: Path, cpu: str) -> None:
        self.home, self.folder, self.fleet = home, folder, folder / "fleet.yaml"
        words: Words = ["1", folder, "--profile", PROFILE, "--arch", "arm64", "--cpu", cpu]
        _run([ROOT / "scripts/fleet-up", *words])

    def slmops(self, *words: object) -> str:
        """Run a command of slmops; return what it printed."""
        return _run(
            [sys.executable, "-m", "slmops.cli.app", *map(str, words)], SLMOPS_HOME=str(self.home)
        ).decode()

    def run(self, command: str, data: bytes = b"") -> bytes:
        """Run a command on the device."""
        port = (self.folder / "edge-1/place").read_text().split()[1]
        words: Words = [
            "ssh",
            "-i",
            self.folder / "id",
            "-p",
            port,
            "-o",
            f"UserKnownHostsFile={self.folder}/known_hosts",
        ]
        return _run([*words, "root@127.0.0.1", command], data)

    def first_answer(self) -> dict[str, Any]:
        """Bring everything to the device; return seconds and what was sent."""
        began = time.monotonic()
        plan = json.loads(self.slmops("deploy", self.fleet, "--release", RELEASE, "--dry-run", "-o", "json"))
        self.slmops("deploy", self.fleet, "--release", RELEASE, "--yes")
        deployed = time.monotonic()
        answer = json.loads(self.slmops("ask", self.fleet, "edge-1", QUESTION, "-o", "json"))["answer"]
        return {
            "deploy_s": round(deployed - began, 1),
            "answer_s": round(time.monotonic() - deployed, 1),
            "answer": answer,
            "sent_bytes": plan["devices"][0]["sends"],
        }

    def logits(self, model: bytes, ids: bytes) -> Rows:
        """Let the device's own runtime read the ids with `model`."""
        self.run("cat > /tmp/model.gguf", model)
        self.run("cat > /tmp/reader.py", READER.read_bytes())
        runtime = self.run("ls -d /root/.slmops/runtimes/*/").decode().split()[0]
        return _rows(
            self.run(f"python3 -I -S {runtime} /tmp/reader.py /tmp/model.gguf {TOKENS}", ids), json.loads(ids)
        )


def _run(words: Words, data: bytes = b"", **env: str) -> bytes:
    done = subprocess.run(
        words, input=data, capture_output=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **env}
    )
    if done.returncode:
        sys.exit(f"{done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}\narm: {words[0]} failed")
    return done.stdout


def _rows(data: bytes, ids: list[int]) -> Rows:
    return np.frombuffer(data, np.float32).reshape(len(ids), -1)


def likeness(here: Rows, there: Rows) -> dict[str, float]:
    """Return how alike two models' thoughts of the same next tokens are: {top1, logit, kl_mean, kl_max}."""
    ours, theirs = (_log_shares(rows.astype(np.float64)) for rows in (here, there))
    kl = (np.exp(ours) * (ours - theirs)).sum(-1)
    return {
        "top1": float((here.argmax(-1) == there.argmax(-1)).mean()),
        "logit": float(np.abs(here - there).max()),
        "kl_mean": float(kl.mean()),
        "kl_max": float(kl.max()),
    }


def _log_shares(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def read_here(model: Path) -> tuple[bytes, Rows]:
    """Draw a text from the model and read it; return its ids and the logits."""
    words: Words = [sys.executable, READER, model, str(TOKENS)]
    ids = _run([*words, "--draw", "1"], PYTHONPATH=str(ROOT))
    return ids, _rows(_run(words, ids, PYTHONPATH=str(ROOT)), json.loads(ids))


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="SLMOPS_HOME of an operator who has it all")
    parser.add_argument("--quick", action="store_true", help="one processor, one model: does it work?")
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # devices are switched off in every case
    cpus, types = (CPUS[:1], TYPES[:1]) if said.quick else (CPUS, TYPES)
    sources = [("demo", ROOT / "demo/model"), *([("stories260k", STORIES)] if STORIES.exists() else [])]
    with tempfile.TemporaryDirectory(prefix="slmops-arm-") as name:
        room = Path(name)
        home = said.home or room / "home"
        if not said.home:
            stock(home, [PROFILE], {RELEASE: "Q8_0"})
        models = {}
        for source, folder in sources:
            for type_ in types:
                file = models[f"{source} {type_}"] = room / f"{source}-{type_}.gguf"
                quantize_gguf(open_checkpoint(folder), type_, file)
        read = {label: read_here(file) for label, file in models.items()}
        answers, alike = {}, {}
        for cpu in cpus:
            try:
                device = Device(home, room / cpu, cpu)
                answers[cpu] = device.first_answer()
                progress(f"{cpu}: {answers[cpu]}")
                for label, (ids, here) in read.items():
                    alike[f"{label}, {cpu}"] = likeness(here, device.logits(models[label].read_bytes(), ids))
                    progress(f"{label}, {cpu}: {alike[f'{label}, {cpu}']}")
            finally:
                _run([ROOT / "scripts/fleet-down", room / cpu])
        bundles = json.loads(
            _run(
                [sys.executable, "-m", "slmops.cli.app", "runtime", "list", "-o", "json"],
                SLMOPS_HOME=str(home),
            )
        )
    report(answers, alike, bundles)


def report(answers: dict[str, Any], alike: dict[str, dict[str, float]], bundles: Any) -> None:
    """Print the tables and save everything."""
    agent = len(agent_bundle.bundle().data)
    rows = [
        (at, f"{of['top1']:.2%}", f"{of['logit']:.2g}", f"{of['kl_mean']:.2g}", f"{of['kl_max']:.2g}")
        for at, of in alike.items()
    ]
    notes = [f"{TOKENS} tokens that the model itself drew. Agent: {agent} bytes."]
    notes += [
        f"{cpu}: {a['deploy_s']} s to deploy, {a['answer_s']} s to answer" for cpu, a in answers.items()
    ]
    columns = ("model, processor", "top-1", "logit diff", "KL mean", "KL max")
    show("The same GGUF here and on emulated ARM", columns, rows, "\n".join(notes))
    took = statistics.median(a["deploy_s"] + a["answer_s"] for a in answers.values())
    facts = {"agent_bytes": agent, "bundles": bundles, "first_answer": answers, "likeness": alike}
    save("arm", {}, **facts, median_first_answer_s=took)


if __name__ == "__main__":
    main()

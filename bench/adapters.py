"""What two sites' adapters are worth, alone and averaged: exactly, at the sites' own rank, and by factors.

Two houses have words of their own: in one the rooms have other names, in the other the devices. Each trains
an adapter for the demo model on its own commands, and hears nothing of the other's. Measured is what each
adapter and each mean makes of held-out commands of both houses, and of the plain language the model knew
before: loss in nats a token of the answer, and the share of commands whose whole answer is the likeliest at
every token, which is what greedy decoding says. A held-out command has a meaning that no training saw.

Three seeds. Sites begin alike (the same seed), as a coordinator would have it; "begun apart" averages
sites that did not. --quick takes one seed and a tenth of the data.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from _measure import ROOT, Samples, progress, quick, run, save, show

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.phrase import CheckpointPhrasing
from slmops.train.adapter import Adapter
from slmops.train.adapter_folder import GGUF, read_adapter, write_adapter
from slmops.train.adapter_mean import Mean, average
from slmops.train.batch import lay
from slmops.train.lora import with_adapter
from slmops.train.objective import cross_entropy, logits_of
from slmops.train.open_trainable import load_weights
from slmops.train.read_data import padding_of
from slmops.train.read_samples import read_samples

sys.path.insert(0, str(ROOT / "scripts"))
from demo_grammar import draw

MODEL: Final = ROOT / "demo" / "model"
LORA: Final = "r=8"
RANK: Final = 8
HOW: Final = ("--lora", LORA, "--rate", "0.005", "--epochs", "3", "--batch-tokens", "2048")
COMMANDS, HELD_OUT = 1500, 400
BATCH: Final = 100
PLAIN: Final = "plain"
WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "north": {
        "kitchen": "galley", "bathroom": "washhouse", "cellar": "vault", "basement": "vault", "attic": "loft",
        "office": "den", "study": "den", "garage": "carport",
    },
    "south": {
        "lamp": "glower", "light": "glower", "heater": "oven", "radiator": "oven", "fan": "blower",
        "ventilator": "blower",
    },
    PLAIN: {},
}  # fmt: skip
SITES: Final = ("north", "south")


@dataclass(frozen=True)
class Known:
    """What a model knows of one language."""

    loss: float
    """Nats a token of the answers."""
    exact: float
    """Share of the commands that are answered wholly right."""


def main() -> None:
    """Train, average and measure; print the tables and save."""
    small = quick(__doc__)
    seeds, share = ((0,), 10) if small else ((0, 1, 2), 1)
    base = open_checkpoint(MODEL)
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        room = Path(folder)
        for name, words in WORDS.items():
            write(room / f"{name}.jsonl", words, COMMANDS // share, held_out=False)
            write(room / f"{name}-held-out.jsonl", words, HELD_OUT // share, held_out=True)
        progress("training the sites' adapters")
        samples: Samples = {
            f"training {site}": [run(training(room, site, seed)) for seed in seeds] for site in SITES
        }
        read = {(site, seed): read_adapter(room / f"{site}-{seed}") for site in SITES for seed in seeds}
        found: dict[str, list[dict[str, Known]]] = {}
        gaps, sizes = list[dict[str, float]](), dict[str, int]()
        for seed in seeds:
            progress(f"measuring seed {seed}")
            means = averaged(read, seed, seeds)
            gaps.append(apart(means))
            adapters = {site: read[site, seed] for site in SITES}
            adapters |= {name: mean.adapter for name, mean in means.items()}
            for name, adapter in {"no adapter": None, **adapters}.items():
                found.setdefault(name, []).append(measure(base, adapter, room))
                if adapter is not None:
                    write_adapter(room / "written", adapter, base)
                    sizes[name] = (room / "written" / GGUF).stat().st_size
    report(found, gaps, sizes)
    if not small:
        languages = {
            name: {kind: [vars(one[kind]) for one in all_] for kind in WORDS} for name, all_ in found.items()
        }
        save("adapters", samples, seeds=seeds, found=languages, gaps=gaps, gguf_bytes=sizes, how=HOW)


def write(file: Path, words: Mapping[str, str], count: int, *, held_out: bool) -> None:
    """Write `count` commands in which each of `words` has its other name, and their answers."""
    dice, lines = random.Random(f"{file.name}"), list[str]()  # noqa: S311 - no secret
    spoken = re.compile(rf"\b({'|'.join(words)})(?=s?\b)")
    while len(lines) < count:
        command = draw(dice, held_out=held_out)
        text = spoken.sub(lambda match: words[match[0]], command.text) if words else command.text
        if not words or text != command.text:
            turns = [("user", text), ("assistant", command.meaning.answer())]
            messages = [{"role": role, "content": content} for role, content in turns]
            lines.append(json.dumps({"messages": messages}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def training(room: Path, site: str, seed: int) -> list[str | Path]:
    """Return the command by which a site trains its adapter."""
    where = ("--data", room / f"{site}.jsonl", "--out", room / f"{site}-{seed}", "--seed", str(seed))
    return [Path(sys.executable).with_name("slmops"), "finetune", MODEL, *where, *HOW]


def averaged(read: Mapping[tuple[str, int], Adapter], seed: int, seeds: tuple[int, ...]) -> dict[str, Mean]:
    """Return the means of the sites' adapters of one seed."""
    sites = [read[site, seed] for site in SITES]
    samples = [site.origin.samples for site in sites]
    made = {
        "exact mean": average(sites, samples),
        f"exact mean, rank {RANK}": average(sites, samples, RANK),
        "mean of factors": average(sites, samples, naive=True),
    }
    if len(seeds) > 1:
        other = seeds[(seeds.index(seed) + 1) % len(seeds)]
        strangers = [read[SITES[0], seed], read[SITES[1], other]]
        made["exact mean, begun apart"] = average(strangers, samples)
        made["mean of factors, begun apart"] = average(strangers, samples, naive=True)
    return made


def apart(means: Mapping[str, Mean]) -> dict[str, float]:
    """Return how far the other means are from the exact ones, as shares of them."""
    naive = {
        name: mean.overall.naive
        for name, mean in means.items()
        if name.startswith("mean of factors") and mean.overall.naive is not None
    }
    return {**naive, f"exact mean, rank {RANK}": means[f"exact mean, rank {RANK}"].overall.cut}


def measure(base: Checkpoint, adapter: Adapter | None, room: Path) -> dict[str, Known]:
    """Return what the base knows of every language, with an adapter or without."""
    model = load_weights(base) if adapter is None else with_adapter(load_weights(base), adapter)
    return {name: known(model, base, room / f"{name}-held-out.jsonl") for name in WORDS}


def known(model: Any, base: Checkpoint, file: Path) -> Known:
    """Return what a model makes of the commands in `file`."""
    end = base.stop_ids[0] if base.stop_ids else None
    samples = read_samples([file], CheckpointPhrasing(base), length=256, end=end).samples
    total, count, right = 0.0, 0, 0
    for start in range(0, len(samples), BATCH):
        places = range(start, min(start + BATCH, len(samples)))
        batch = lay(samples, places, padding_of(base))
        with torch.inference_mode():
            logits = logits_of(model, batch)
        total, count = total + cross_entropy(logits, batch).item(), count + batch.count
        wanted = batch.ids[:, 1:][batch.learned[:, 1:]]
        hits = (logits.argmax(-1) == wanted).split(batch.learned[:, 1:].sum(1).tolist())
        right += sum(bool(each.all()) for each in hits)
    return Known(total / count, right / len(samples))


def report(
    found: Mapping[str, list[dict[str, Known]]], gaps: list[dict[str, float]], sizes: Mapping[str, int]
) -> None:
    """Print what every adapter knows, and how far the means are from each other."""
    exact = [
        (name, *(spread([one[kind].exact for one in all_], "{:.1%}") for kind in WORDS), size(sizes, name))
        for name, all_ in found.items()
    ]
    notes = f"Of held-out commands; {len(gaps)} seeds, mean and half of the range. GGUF in kB."
    show("Commands of each language that are answered right", ("adapter", *WORDS, "GGUF"), exact, notes)
    losses = [
        (name, *(spread([one[kind].loss for one in all_], "{:.3f}") for kind in WORDS))
        for name, all_ in found.items()
    ]
    show("Loss, nats a token of the answer", ("adapter", *WORDS), losses, "")
    distances = [(name, spread([gap[name] for gap in gaps], "{:.1%}")) for name in gaps[0]]
    show("How far from the exact mean (Frobenius, of all matrices)", ("adapter", "apart"), distances, "")


def size(sizes: Mapping[str, int], name: str) -> str:
    """Return what a device is sent."""
    return f"{sizes[name] / 1e3:.0f}" if name in sizes else "-"


def spread(values: list[float], form: str) -> str:
    """Return the mean, and half of the range where there are several."""
    mean = form.format(statistics.mean(values))
    half = (max(values) - min(values)) / 2
    return mean if len(values) == 1 else f"{mean} ± {form.format(half)}"


if __name__ == "__main__":
    main()

"""What distilling keeps that cutting loses: stories, house commands, and intents, each in a smaller model.

Every arm is a run of `slmops` as a user starts it, and every figure stands in the ledger that it leaves.

stories    tinystories-656k ($SLMOPS_MODELS) to a student of at most 60 % of its weights: cut, then trained
           on cross-entropy alone or distilled, at the same budgets of tokens, with several seeds. The last
           700 stories of the sample ($SLMOPS_DATA) are held out; 200 of them are read for bits per byte and
           KL, and 300 four-way endings are chosen by likelihood for each byte.
depth      stories260k without one of its five layers, healed: how much of the divergence comes back.
commands   demo/model to at most 40 % of its weights: which of 2,000 held-out commands get the right action.
intents    a text classifier trained from nothing on banking77, its student, and both as ONNX INT8: accuracy
           on the 3,080 test texts, bytes, and milliseconds for a text.

No time is compared but that of the classifiers, whose four are timed one after the other. --quick: one seed
and a tenth of the training, to see that it works. Results: bench/results/distill.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from _measure import HERE, ROOT, machine, progress, show
from tokenizers import BertWordPieceTokenizer

from slmops.build.labelled_lines import read_lines

PARTS: Final = ("stories", "depth", "commands", "intents")
HELD_OUT: Final = 700
SEEDS: Final = (0, 1, 2)
BUDGETS: Final = (600_000, 2_400_000)
"""Tokens of training, of all seeds; and of one seed, for what more of them buys."""
EPOCHS: Final = 30
"""Of the classifiers."""
END: Final = "<|endoftext|>"
SLMOPS: Final = (sys.executable, "-m", "slmops")
Stage = dict[str, Any]
PROFILE: Final = "x86-64-v3:onnx:INT8"


@dataclass(frozen=True)
class Bench:
    """Where a run of this benchmark works, and how much of it."""

    room: Path
    models: Path
    data: Path
    hasty: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the arms that are repeated."""
        return SEEDS[:1] if self.hasty else SEEDS

    def some(self, count: int) -> str:
        """Return so many of something, or a tenth of it."""
        return str(max(count // 10, 2) if self.hasty else count)


def main() -> None:
    """Run the parts that are asked for; print a table of each and write them to the JSON file."""
    said = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-distill-") as room:
        bench = Bench(
            Path(said.room or room), place("MODELS", "models"), place("DATA", "data"), hasty=said.quick
        )
        bench.room.mkdir(parents=True, exist_ok=True)
        os.environ["SLMOPS_HOME"] = str(bench.room / "home")
        found = {part: globals()[part](bench) for part in said.parts or PARTS}
    if not said.quick:
        keep(found)


def stories(bench: Bench) -> dict[str, Any]:
    """Cut a story teller and heal it, with and without its teacher."""
    teacher, texts = bench.models / "tinystories-656k", training_stories(bench)
    cut = bench.room / "cut"
    if not (cut / "config.json").is_file():
        slmops("prune", teacher, "--params", "60%", "--calibration", texts, "--out", cut)
    arms: dict[str, list[dict[str, Any]]] = {}
    for budget, seed, weight in schedule(bench):
        arm = ("cross-entropy alone" if weight == "0" else "distilled") + f", {int(budget):,} tokens"
        stages = distill(
            bench,
            f"stories-{budget}-{weight}-{seed}",
            teacher,
            [
                "--student", cut, "--data", texts, "--length", "256",
                "--train-tokens", budget, "--weight", weight, "--seed", str(seed), *measured(bench),
            ],
        )  # fmt: skip
        arms.setdefault("teacher", stages[:1])
        arms.setdefault("cut, not healed", stages[1:2])
        arms.setdefault(arm, []).append(stages[-1])
    return tell("stories", arms)


def depth(bench: Bench) -> dict[str, Any]:
    """Take a layer out of a story teller and heal what is left."""
    stages = distill(
        bench,
        "depth",
        bench.models / "stories260k",
        [
            "--student", "prune:layers=4", "--data", training_stories(bench), "--length", "256",
            "--train-tokens", bench.some(BUDGETS[1]), *measured(bench),
        ],
    )  # fmt: skip
    return tell("depth", {stage["name"]: [stage] for stage in stages})


def training_stories(bench: Bench) -> Path:
    """Write the stories that are not held out."""
    texts, sample = bench.room / "stories.txt", bench.data / "tinystories_sample_2MiB.txt"
    every = [text for text in sample.read_text(encoding="utf-8").split(END) if text.strip()]
    texts.write_text(END.join(every[:-HELD_OUT]), encoding="utf-8")
    return texts


def measured(bench: Bench) -> list[str | Path]:
    """Return with what story tellers are measured."""
    return [
        "--evaluation", bench.data / "tinystories_eval_200.txt", "--tokens", "16384",
        "--task", bench.data / "tinystories_ending_choice.jsonl",
    ]  # fmt: skip


def schedule(bench: Bench) -> Iterator[tuple[str, int, str]]:
    """Yield token budget, seed and the weight of the divergence of each arm."""
    small, large = (bench.some(budget) for budget in BUDGETS)
    yield from ((small, seed, weight) for seed in bench.seeds for weight in ("0", "0.9"))
    yield from ((large, bench.seeds[0], weight) for weight in ("0", "0.9"))


def commands(bench: Bench) -> dict[str, Any]:
    """Cut the demo model and teach what is left of it."""
    lines, task = bench.room / "commands.jsonl", bench.room / "held-out.jsonl"
    write_commands(lines, ["30000"])
    write_commands(task, ["2000", "--held-out"])
    stages = distill(
        bench,
        "commands",
        ROOT / "demo" / "model",
        [
            "--student", "prune:40%", "--data", lines, "--task", task,
            "--train-tokens", bench.some(1_500_000),
        ],
    )  # fmt: skip
    return tell("commands", {stage["name"]: [stage] for stage in stages})


def intents(bench: Bench) -> dict[str, Any]:
    """Train a classifier, teach a smaller one, and make both INT8."""
    data, task = bench.data / "banking77_train.csv", bench.data / "banking77_test.csv"
    shape = bench.room / "shape"
    new_classifier(shape, data)
    teacher = bench.room / "intents-teacher"
    if not (teacher / "config.json").is_file():
        slmops(
            "finetune", shape, "--data", data, "--out", teacher, "--epochs", bench.some(EPOCHS),
            "--rate", "0.0015", "--batch-tokens", "1280",
        )  # fmt: skip
    out = ["--then-quantize", "--profile", PROFILE, "--name", "intents", "--version"]
    stages = distill(
        bench,
        "intents",
        teacher,
        [
            "--student", "prune:40%", "--data", data, "--task", task, "--evaluation", task,
            "--epochs", bench.some(EPOCHS), "--rate", "0.0015", "--batch-tokens", "1280",
            "--temperature", "2", *out, "1.0.0",
        ],
    )  # fmt: skip
    if not (bench.room / "home" / "reports" / "intents" / "0.9.0").is_dir():
        slmops(
            "quantize", teacher, "--profile", PROFILE, "--name", "intents", "--version", "0.9.0",
            "--calibration", data, "--evaluation", task,
        )  # fmt: skip
    arms = {f"{stage['name']} {stage['parameters']:,}": [stage] for stage in stages}
    arms["teacher INT8"] = [evaluated("intents:0.9.0", task)]
    return tell("intents", arms)


def new_classifier(folder: Path, data: Path) -> None:
    """Write the shape of a small Bert for the labels in `data`, and a tokenizer made from its texts."""
    lines = list(read_lines(data.read_text(encoding="utf-8"), data.name))
    labels = sorted({str(line.label) for line in lines})
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator([line.text for line in lines], vocab_size=4000, min_frequency=2)
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert",
        "vocab_size": words.get_vocab_size(), "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 512, "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1, "pad_token_id": 0,
        "id2label": {str(place): label for place, label in enumerate(labels)},
        "label2id": {label: place for place, label in enumerate(labels)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def distill(bench: Bench, name: str, teacher: Path, more: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Distill into a folder of its own; return the steps of the ledger."""
    out = bench.room / name
    if not (out / "ledger.json").is_file():
        slmops("distill", teacher, "--out", out, *more)
    return list(json.loads((out / "ledger.json").read_text(encoding="utf-8"))["stages"])


def evaluated(reference: str, task: Path) -> dict[str, Any]:
    """Return an artifact of a classifier as a step of a ledger."""
    said = json.loads(slmops("evaluate", reference, "--task", task, "-o", "json"))
    one = said["tasks"][0]
    low, high = one["interval"]
    score = {"accuracy": one["accuracy"], "low": low, "high": high, "items": one["items"]}
    return {
        "name": reference,
        "bytes": said["artifact"]["bytes"],
        "tasks": {one["task"]: score},
        "speed": {"texts_per_second": 1 / said["speed"]["text_seconds"]},
        "measured": {},
    }


def slmops(*argv: str | Path) -> str:
    """Run a command of slmops; return what it printed, or end the benchmark with its last words."""
    progress("slmops " + " ".join(map(str, argv)))
    done = subprocess.run([*SLMOPS, *map(str, argv)], check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{done.stderr[-3000:]}\nended with exit code {done.returncode}")
    return done.stdout


def write_commands(file: Path, argv: Sequence[str]) -> None:
    """Write commands of the demo's grammar."""
    script = ROOT / "scripts" / "write_demo_commands.py"
    done = subprocess.run([sys.executable, script, *argv], capture_output=True, text=True, check=True)
    file.write_text(done.stdout, encoding="utf-8")


def tell(part: str, arms: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print a table of the arms, means over seeds with their spread; return it for the JSON file."""
    task = next(iter(next(iter(arms.values()))[0]["tasks"]), "")
    figures: dict[str, Callable[[Stage], float | None]] = {
        "bits per byte": lambda stage: stage["measured"].get("bits_per_byte"),
        "KL": lambda stage: stage["measured"].get("kl_mean"),
        "right": lambda stage: stage["tasks"].get(task, {}).get("accuracy"),
        "ms a text": lambda stage: (
            1000 / stage["speed"]["texts_per_second"] if "texts_per_second" in stage["speed"] else None
        ),
    }
    every = [stage for arm in arms.values() for stage in arm]
    heads = [name for name, read in figures.items() if any(read(one) is not None for one in every)]
    rows, kept = list[list[str]](), dict[str, Any]()
    for name, stages in arms.items():
        cells = {head: spread([figures[head](stage) for stage in stages]) for head in heads}
        rows.append([name, f"{stages[0]['bytes']:,}", *(cell["told"] for cell in cells.values())])
        kept[name] = {"figures": cells, "stages": stages}
    show(part, ["", "bytes", *heads], rows, f"right: of {task}" if task else "")
    return kept


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, least and most of what is there, and how it is told: give or take half of their span."""
    there = [value for value in values if value is not None]
    if not there:
        return {"told": "-"}
    mean = statistics.fmean(there)
    half = (max(there) - min(there)) / 2
    told = f"{mean:.4f}" if len(there) == 1 else f"{mean:.4f} ± {half:.4f}"
    return {"mean": mean, "least": min(there), "most": max(there), "seeds": len(there), "told": told}


def place(name: str, folder: str) -> Path:
    """Return the folder that $SLMOPS_<name> names; end, saying so, where there is none."""
    said = Path(os.environ.get(f"SLMOPS_{name}", ROOT.parent / "shared" / folder))
    if not said.is_dir():
        sys.exit(f"no folder {said}: set SLMOPS_{name} to the folder of {folder}; nothing was measured")
    return said


def keep(found: Mapping[str, Any]) -> None:
    """Put the parts into the JSON file, beside those of other runs."""
    file = HERE / "results" / "distill.json"
    before = json.loads(file.read_text(encoding="utf-8"))["parts"] if file.is_file() else {}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    said = {"benchmark": "distill", "when": when, **machine(), "parts": {**before, **found}}
    file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    progress(f"wrote {file.relative_to(ROOT)}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which parts; all of them")
    parser.add_argument("--quick", action="store_true", help="one seed and a tenth of the training")
    parser.add_argument("--room", help="a folder to work in and to go on from; else one that is removed")
    return parser.parse_args()


if __name__ == "__main__":
    main()

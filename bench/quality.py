"""What each type costs in quality: every GGUF type and every ONNX type, of trained models, on held-out text.

For each model folder in $SLMOPS_MODELS all types are built and read the same held-out text as the source (in
transformers, float32), $SLMOPS_DATA/tinystories_eval_200.txt; then each is put the 300 four-way items of
tinystories_ending_choice.jsonl beside it. KL is that of the next-token distributions, in nats, with its
standard error; bits per byte compare the models with each other, whose vocabularies differ; an ending is
chosen by its likelihood for each byte, and its interval is Wilson's of 95 %.

No time is measured here and nothing is calibrated. Types that fall back (256 does not divide the rows of
these models) are built as they fall back: `bits` are those of the file's tensors, not of the label. --quick
takes four types, 60 items and an eighth of the text.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from _measure import HERE, ROOT, machine, progress, quick, show

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.divergence import Measurement
from slmops.build.measure import measure_many
from slmops.build.onnx_size import ONNX_TYPES
from slmops.build.quantize_gguf import plan_gguf, write_all
from slmops.build.quantize_onnx import check_parts, quantize_onnx
from slmops.build.run_tasks import run_tasks
from slmops.build.scheme import FILE_TYPES
from slmops.build.subject import find_subject
from slmops.build.tasks import Result, Task, flips, read_task
from slmops.errors import MissingPartError

TEXT, ITEMS = "tinystories_eval_200.txt", "tinystories_ending_choice.jsonl"
TOKENS: Final = 16_384
QUICK: Final = ("Q8_0", "Q4_0", "Q2_K")
QUICK_ONNX: Final = ("INT8",)
QUICK_ITEMS: Final = 60
TOGETHER: Final = 2
"""Artifacts that are measured at a time."""


@dataclass(frozen=True)
class Made:
    """One artifact of a model."""

    format: str
    type: str
    file: Path
    bits: float
    fallbacks: int


def main() -> None:
    """Build, measure and ask every type; print a table for each model and write the JSON file."""
    hasty = quick(__doc__)
    models, data = (place(name, folder) for name, folder in (("MODELS", "models"), ("DATA", "data")))
    task = read_task((data / ITEMS).read_text(encoding="utf-8"), ITEMS)
    if hasty:
        task = replace(task, choices=task.choices[:QUICK_ITEMS])
    found = {}
    for folder in sorted(file.parent for file in models.glob("*/config.json")):
        found[folder.name] = study(folder, data / TEXT, task, hasty=hasty)
    if not found:
        sys.exit(f"no model folder in {models}: nothing to measure")
    if not hasty:
        save(found)


def place(name: str, folder: str) -> Path:
    """Return the folder that $SLMOPS_<name> names; end, saying so, where there is none."""
    said = Path(os.environ.get(f"SLMOPS_{name}", ROOT.parent / "shared" / folder))
    if not said.is_dir():
        sys.exit(f"no folder {said}: set SLMOPS_{name} to the folder of {folder}; nothing was measured")
    return said


def study(folder: Path, text: Path, task: Task, *, hasty: bool) -> list[dict[str, Any]]:
    """Return a row for the source and for each type of the model in `folder`, and print them."""
    checkpoint = open_checkpoint(folder)
    with tempfile.TemporaryDirectory() as room:
        made = [*ggufs(checkpoint, Path(room), hasty=hasty), *onnxes(checkpoint, Path(room), hasty=hasty)]
        progress(f"{folder.name}: measuring {len(made)} artifacts")
        losses = measure_many(
            checkpoint,
            [one.file for one in made],
            texts=text,
            tokens=TOKENS // 8 if hasty else TOKENS,
            jobs=TOGETHER,
        )
        (source,) = run_tasks(checkpoint, [task])
        rows = [
            row(one, loss, answered(one, checkpoint, task), source)
            for one, loss in zip(made, losses, strict=True)
        ]
    first = losses[0]
    whole = {
        "format": "source",
        "type": "F32",
        "bytes": sum(file.stat().st_size for file in {entry.file for entry in checkpoint.tensors.values()}),
        "bits_per_weight": 32.0,
        "bits_per_byte": first.source_bits_per_byte,
        "perplexity": first.source_perplexity,
        "endings": source.accuracy,
        "endings_interval": source.interval,
    }
    draw(folder.name, [whole, *rows], first)
    return [whole, *rows]


def ggufs(checkpoint: Checkpoint, room: Path, *, hasty: bool) -> list[Made]:
    """Build every GGUF type from one reading of the weights."""
    names = QUICK if hasty else tuple(FILE_TYPES)
    files = {name: room / f"{name}.gguf" for name in names}
    reports = write_all(checkpoint, {file: plan_gguf(checkpoint, name) for name, file in files.items()})
    return [
        Made("gguf", name, file, reports[file].bits_per_weight, len(reports[file].fallbacks))
        for name, file in files.items()
    ]


def onnxes(checkpoint: Checkpoint, room: Path, *, hasty: bool) -> list[Made]:
    """Build every ONNX type, if what that needs is installed."""
    try:
        check_parts()
    except MissingPartError as error:
        progress(f"no ONNX: {error}")
        return []
    made = []
    for name in QUICK_ONNX if hasty else ONNX_TYPES:
        progress(f"{checkpoint.folder.name}: building ONNX {name}")
        report = quantize_onnx(checkpoint, name, room / f"{name}.onnx")
        made.append(Made("onnx", name, room / f"{name}.onnx", report.bits_per_weight, 0))
    return made


def answered(one: Made, checkpoint: Checkpoint, task: Task) -> Result:
    """Put the items to an artifact, in the words of its source."""
    progress(f"{checkpoint.folder.name}: {one.format} {one.type}")
    folder = one.file.parent
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        if (checkpoint.folder / name).is_file():
            (folder / name).write_bytes((checkpoint.folder / name).read_bytes())
    return run_tasks(find_subject(str(one.file)), [task])[0]


def row(one: Made, loss: Measurement, result: Result, source: Result) -> dict[str, Any]:
    """Return what was found of one artifact."""
    lost, won = flips(source, result)
    return {
        "format": one.format,
        "type": one.type,
        "bytes": one.file.stat().st_size,
        "bits_per_weight": one.bits,
        "fallbacks": one.fallbacks,
        **loss.figures(),
        "endings": result.accuracy,
        "endings_interval": result.interval,
        "endings_lost": lost,
        "endings_won": won,
    }


def draw(name: str, rows: list[dict[str, Any]], loss: Measurement) -> None:
    """Print the table of one model."""
    columns = ("type", "bytes", "bits", "KL", "±", "KL p99", "top-1", "bits/byte", "endings", "95 %", "flips")
    show(
        f"{name}: {loss.tokens} tokens of held-out text",
        columns,
        [cells(found) for found in rows],
        "flips: endings that the source finds and the artifact does not, and the reverse",
    )


def cells(found: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    low, high = found["endings_interval"]
    loss = ["-"] * 4
    if "kl_mean" in found:
        loss = [f"{found[key]:.2g}" for key in ("kl_mean", "kl_error", "kl_p99")] + [f"{found['top1']:.2%}"]
    return [
        f"{found['format']} {found['type']}",
        f"{found['bytes']:,}",
        f"{found['bits_per_weight']:.2f}",
        *loss,
        f"{found['bits_per_byte']:.4f}",
        f"{found['endings']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{found['endings_lost']}, {found['endings_won']}" if "endings_lost" in found else "-",
    ]


def save(found: dict[str, list[dict[str, Any]]]) -> None:
    """Write bench/results/quality.json."""
    said = {
        "benchmark": "quality",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "text": TEXT,
        "task": ITEMS,
        "models": found,
    }
    path = HERE / "results" / "quality.json"
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    progress(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

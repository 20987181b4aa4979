"""What a type for each tensor buys: loss at the same bytes as llama.cpp's own types, and what is chosen.

For each model the importance matrix is collected from calibration text, every GGUF type is built with it,
and beside each a mixed one of no more bytes, found by measuring (slmops/build/measure_tensors.py, mix.py);
all are measured on text that the source writes itself, from another seed than the search used. Then
`slmops quantize` chooses for four devices: one with room, and three that are tight or take ONNX alone.

It is fair because both sides of a row have the same matrix, the same quantiser and the same text. K types
are built as they fall back where 256 does not divide the rows. No time is measured here. Models: the folders
in $SLMOPS_MODELS, calibration text: the file $SLMOPS_CALIBRATION; else the demo model and its own prompts.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from _measure import ROOT, machine, progress, quick, show

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.collect_importance import collect_importance
from slmops.build.importance import Importance
from slmops.build.measure import measure_many
from slmops.build.measure_tensors import measure_tensors
from slmops.build.mix import Option, mix
from slmops.build.quantize_gguf import GgufPlan, plan_gguf, write_all
from slmops.build.scheme import GGML_TYPES

TYPES: Final = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1",
    "IQ4_XS", "IQ4_NL", "Q4_0", "Q3_K_M", "IQ3_S", "Q2_K",
)  # fmt: skip
TOKENS: Final = 4096
PROFILE: Final = """
name: {name}
title: {name}
arch: x86_64
cpu: {{model: none, cores: 2}}
memory: {{total: 2GiB, reserve: 1GiB, bandwidth: 8GB/s}}
storage: {{kind: sd, free: {storage}}}
system: {{os: Linux}}
serve: {{context: 256, threads: 2, micro_batch: 64}}
formats: [{formats}]
"""
NOTE: Final = "The closest to the source that fits; of those below 0.001 nats, the smallest."
RECIPE: Final = """
name: bench
version: 1.0.0
model: {model}
profiles: [{profiles}]
quality: {{kl: 0.1, top1: 0.8, perplexity_ratio: 1.2, enough: 0.001}}
calibration: {{file: {calibration}}}
"""


def main() -> None:
    """Measure every model, print, save."""
    small = quick(__doc__)
    found: dict[str, Any] = {}
    for folder in models():
        found[folder.name] = {"types": compare(folder, 512 if small else TOKENS), "devices": choose(folder)}
    if not small:
        place = ROOT / "bench" / "results" / "mixed.json"
        place.write_text(
            json.dumps({"machine": machine(), "tokens": TOKENS, "models": found}, indent=1) + "\n"
        )


def models() -> list[Path]:
    """Return the model folders to look at."""
    said = os.environ.get("SLMOPS_MODELS")
    if not said:
        return [ROOT / "demo" / "model"]
    return sorted(file.parent for file in Path(said).glob("*/config.json"))


def calibration() -> Path:
    """Return the text that the importance matrix is collected from."""
    said = os.environ.get("SLMOPS_CALIBRATION")
    return Path(said) if said else ROOT / "demo" / "model" / "golden.jsonl"


def compare(folder: Path, tokens: int) -> list[dict[str, Any]]:
    """Build every type and its mixed counterpart; return and show what each loses."""
    checkpoint = open_checkpoint(folder)
    progress(f"{folder.name}: importance")
    importance = collect_importance(checkpoint, calibration())
    progress(f"{folder.name}: trying types on each tensor")
    options = measure_tensors(checkpoint, importance)
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as room:
        plans: dict[Path, GgufPlan] = {}
        for type_ in TYPES:
            stock = plan_gguf(checkpoint, type_, importance=importance)
            plans[Path(room) / f"{type_}.gguf"] = stock
            plans[Path(room) / f"{type_}-mixed.gguf"] = mixed(checkpoint, stock, options, importance)
        progress(f"{folder.name}: building and measuring {len(plans)} files")
        write_all(checkpoint, plans)
        measured = measure_many(checkpoint, list(plans), tokens=tokens)
        sizes = [file.stat().st_size for file in plans]
    rows = []
    for number, type_ in enumerate(TYPES):
        one, other = measured[2 * number : 2 * number + 2]
        size, mixed_size = sizes[2 * number : 2 * number + 2]
        rows.append({
            "type": type_, "bytes": size, "mixed_bytes": mixed_size,
            "top1": one.top1, "mixed_top1": other.top1,
            "kl": one.kl_mean, "kl_error": one.kl_error, "mixed_kl": other.kl_mean,
            "mixed_kl_error": other.kl_error,
        })  # fmt: skip
    columns = ("stock type", "bytes", "mixed bytes", "KL", "mixed KL", "ratio", "top-1", "mixed top-1")
    show(
        f"{folder.name}: the same bytes, the same importance matrix",
        columns,
        [shown(row) for row in rows],
        f"KL in nats over {tokens} tokens; 'mixed' has a type for each tensor.",
    )
    return rows


def mixed(
    checkpoint: Checkpoint, stock: GgufPlan, options: dict[str, list[Option]], importance: Importance
) -> GgufPlan:
    """Return the plan of the mix that takes no more bytes than a stock type."""
    shapes = {tensor.name: tensor.shape for tensor in stock.tensors if tensor.name in options}
    nbytes = sum(GGML_TYPES[stock.scheme.types[name]].size(shape) for name, shape in shapes.items())
    types = mix(options, nbytes).types
    every = {tensor.name: types.get(tensor.name, "F32") for tensor in stock.tensors}
    return plan_gguf(checkpoint, "MIXED", every, importance)


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table."""
    return (
        row["type"], f"{row['bytes']:,}", f"{row['mixed_bytes']:,}",
        f"{row['kl']:.2e}", f"{row['mixed_kl']:.2e}", f"{row['mixed_kl'] / row['kl']:.2f}x",
        f"{row['top1']:.1%}", f"{row['mixed_top1']:.1%}",
    )  # fmt: skip


def choose(folder: Path) -> list[dict[str, Any]]:
    """Let the command choose for four devices, three of them tight; return and show its answers."""
    whole = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    parameters = open_checkpoint(folder).parameters
    devices = {
        "roomy": (32 * whole, "gguf, onnx"),
        "tight": (parameters * 9 // 4, "gguf, onnx"),
        "tighter": (parameters * 2, "gguf, onnx"),
        "only-onnx": (32 * whole, "onnx"),
    }
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as room:
        home = Path(room) / "home"
        (home / "profiles").mkdir(parents=True)
        for name, (storage, formats) in devices.items():
            text = PROFILE.format(name=name, storage=storage, formats=formats)
            (home / "profiles" / f"{name}.yaml").write_text(text)
        recipe = RECIPE.format(model=folder, profiles=", ".join(devices), calibration=calibration())
        (home / "recipe.yaml").write_text(recipe)
        command: list[str | Path] = [
            ROOT / ".venv/bin/slmops",
            "quantize",
            "--recipe",
            home / "recipe.yaml",
            "-o",
            "json",
        ]
        progress(f"{folder.name}: choosing for four devices")
        said = subprocess.run(
            command, env={**os.environ, "SLMOPS_HOME": str(home)}, stdout=subprocess.PIPE, check=True
        )
        answer = json.loads(said.stdout)
    rows = []
    for profile in answer["profiles"]:
        best = next(one for one in profile["candidates"] if one["verdict"] == "chosen")
        rows.append({
            "device": profile["profile"], "storage": devices[profile["profile"]][0],
            "chosen": profile["chosen"],
            "bytes": best["bytes"], "kl": best["measured"]["kl_mean"], "reason": profile["reason"],
        })  # fmt: skip
    columns = ("device", "storage", "chosen", "bytes", "KL")
    table = [
        (r["device"], f"{r['storage']:,}", r["chosen"], f"{r['bytes']:,}", f"{r['kl']:.2e}") for r in rows
    ]
    show(
        f"{folder.name}: what is chosen",
        columns,
        table,
        "The closest to the source that fits; below 0.001 nats, the smallest.",
    )
    return rows


if __name__ == "__main__":
    main()

"""Make update pairs: the artifacts of a model, and of what became of it, for measuring what an update costs.

`pairs.py OUT MODEL --data TEXT` really trains MODEL with slmops: all of its weights at three strengths, a
LoRA adapter merged, the last block alone; and changes its words and nothing else. `pairs.py OUT --random`
makes a Llama of about 100 million weights, rows of very different size, and moves each weight of it by noise
of three strengths. Both are built as several types, and the types of one model make pairs with each other.

OUT gets a folder PAIR with base.gguf and target.gguf (or .onnx, or tokenizer.json as base.json), and
pairs.json: of each pair how far its weights moved (root mean square, as a share of the base's). Where weights
moved, target-reused.gguf (.onnx) is the target built with the base's scales, as --delta-base does it with a
tolerance of TOLERANCE. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from _measure import ROOT, progress

from slmops.build.checkpoint import Checkpoint, open_checkpoint
from slmops.build.quantize_gguf import Reuse, plan_gguf, write_all
from slmops.build.quantize_onnx import quantize_onnx
from slmops.build.read_tensors import read_rows

Weights = dict[str, npt.NDArray[np.float32]]

TRAINED: Final[Mapping[str, tuple[str, ...]]] = {
    "finetune-mild": ("--rate", "2e-4", "--steps", "80"),
    "finetune-mid": ("--rate", "1e-3", "--steps", "300"),
    "finetune-hard": ("--rate", "4e-3", "--steps", "300"),
    "lora": ("--lora", "r=8", "--merge", "--rate", "1e-3", "--steps", "100"),
}
"""How `slmops finetune` is asked for each."""
READ: Final = ("--batch-tokens", "2048", "--length", "256")
LAST_OF: Final = "finetune-mid"
"""Whose last block is put on the base."""
NOISE: Final = {"noise-mild": 0.002, "noise-mid": 0.01, "noise-hard": 0.05}
"""By what share of a row's size each of its weights is moved."""
GGUF: Final = ("Q4_0", "Q8_0", "Q4_K_M", "Q6_K")
ONNX: Final = ("F32", "INT8", "INT4")
RETYPED: Final = (("Q8_0", "Q4_0"), ("Q4_0", "Q4_K_M"))
SIZE: Final = {"hidden": 768, "inner": 2048, "layers": 12, "vocabulary": 32_000}
HEAD: Final = 64
TOLERANCE: Final = 0.2


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder that gets the pairs")
    parser.add_argument("model", type=Path, nargs="*", help="Hugging Face folder; more of them")
    parser.add_argument("--data", type=Path, help="text, or JSON lines, to train on")
    parser.add_argument("--random", action="store_true", help="a random Llama of 100 million weights too")
    asked = parser.parse_args()
    if asked.model and not asked.data:
        parser.error("models are trained: say on what with --data")
    asked.out.mkdir(parents=True, exist_ok=True)
    for model in asked.model:
        make_pairs(asked.out, model.name, trained(asked.out / "models", model, asked.data), ONNX)
    if asked.random:
        make_pairs(asked.out, "random-100m", noised(asked.out / "models"), ())


def trained(room: Path, model: Path, data: Path) -> dict[str, Path]:
    """Return the base and what training made of it, by name."""
    found = {"base": model}
    for name, how in TRAINED.items():
        found[name] = room / f"{model.name}.{name}"
        if not (found[name] / "config.json").is_file():
            progress(f"training {found[name].name}")
            slmops = Path(sys.executable).with_name("slmops")
            words: list[str | Path] = ["--data", data, "--out", found[name], *how, *READ]
            subprocess.run([slmops, "finetune", model, *words], check=True)
    found["last-block"] = room / f"{model.name}.last-block"
    last = f".{open_checkpoint(model).shape.layers - 1}."
    theirs = weights_of(open_checkpoint(found[LAST_OF]))
    own = weights_of(open_checkpoint(model))
    write(found["last-block"], model, {name: theirs[name] if last in name else own[name] for name in own})
    found["words"] = room / f"{model.name}.words"
    write(found["words"], model, own)
    reword(found["words"])
    return found


def reword(folder: Path) -> None:
    """Give the marks of a vocabulary other names wherever they are said, as a new prompt format does."""
    said = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for name in ("tokenizer", "tokenizer_config", "special_tokens_map"):
        file = folder / f"{name}.json"
        text = file.read_text(encoding="utf-8")
        for mark in said["added_tokens"]:
            text = text.replace(mark["content"], f"{mark['content'][:-1]}_house>")
        file.write_text(text, encoding="utf-8")


def noised(room: Path) -> dict[str, Path]:
    """Return a random Llama, and it with noise of each strength."""
    base = room / "random-100m"
    drawn = np.random.default_rng(7)
    hidden, inner, layers, vocabulary = SIZE.values()
    square, wide = (hidden, hidden), (inner, hidden)
    block = {
        "self_attn.q_proj": square, "self_attn.k_proj": (hidden // 2, hidden),
        "self_attn.v_proj": (hidden // 2, hidden), "self_attn.o_proj": square,
        "mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        **{f"model.layers.{n}.{part}.weight": shape for n in range(layers) for part, shape in block.items()},
    }
    words = ROOT / "demo" / "model"
    if not (base / "config.json").is_file():
        progress("drawing a random Llama")
        weights = {name: random_rows(drawn, shape) for name, shape in shapes.items()}
        write(base, words, weights, random_config(json.loads((words / "config.json").read_text("utf-8"))))
    found = {"base": base}
    for seed, (name, share) in enumerate(NOISE.items()):
        found[name] = room / f"random-100m.{name}"
        if not (found[name] / "config.json").is_file():
            progress(f"moving it: {name}")
            noise = np.random.default_rng(seed)
            weights = weights_of(open_checkpoint(base))
            write(found[name], base, {key: add_noise(noise, rows, share) for key, rows in weights.items()})
    return found


def random_config(said: dict[str, object]) -> dict[str, object]:
    """Return the demo model's config with the sizes of the random one."""
    hidden, inner, layers, vocabulary = SIZE.values()
    return said | {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "vocab_size": vocabulary, "num_attention_heads": hidden // HEAD, "head_dim": HEAD,
        "num_key_value_heads": hidden // HEAD // 2, "torch_dtype": "float32",
    }  # fmt: skip


def random_rows(drawn: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return a matrix whose rows differ in size as those of trained ones do; a norm of ones."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    sizes = drawn.lognormal(math.log(0.02), 0.4, (shape[0], 1))
    return (drawn.standard_normal(shape, np.float32) * sizes).astype(np.float32)


def add_noise(
    noise: np.random.Generator, rows: npt.NDArray[np.float32], share: float
) -> npt.NDArray[np.float32]:
    """Return the weights, each moved by `share` of its row's size."""
    size = np.sqrt(np.square(rows).mean(axis=-1, keepdims=True))
    return np.asarray(rows + share * size * noise.standard_normal(rows.shape, np.float32), np.float32)


def write(folder: Path, beside: Path, weights: Weights, config: dict[str, object] | None = None) -> None:
    """Write a Hugging Face folder with the words (and, unless it is given, the config) of another."""
    from safetensors.numpy import save_file  # noqa: PLC0415 - comes with transformers, in the extra `onnx`

    folder.mkdir(parents=True, exist_ok=True)
    for file in beside.glob("*.json"):
        if file.name != "config.json":
            shutil.copy(file, folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = config or json.loads((beside / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


def weights_of(checkpoint: Checkpoint) -> Weights:
    """Return all weights, by name."""
    return {
        name: read_rows(entry, 0, entry.shape[0]).reshape(entry.shape)
        for name, entry in checkpoint.tensors.items()
    }


def moved(base: Checkpoint, target: Checkpoint) -> float:
    """Return the root mean square of what the matrices were moved by, as a share of their own."""
    apart = own = 0.0
    for name, entry in base.tensors.items():
        if len(entry.shape) > 1:
            before = read_rows(entry, 0, entry.shape[0])
            after = read_rows(target.tensors[name], 0, entry.shape[0])
            apart += float(np.square(after - before, dtype=np.float64).sum())
            own += float(np.square(before, dtype=np.float64).sum())
    return math.sqrt(apart / own)


def make_pairs(out: Path, model: str, found: Mapping[str, Path], onnx: Sequence[str]) -> None:
    """Build everything as every type, and lay out the pairs."""
    room, base = out / "built", open_checkpoint(found["base"])
    first = artifacts(room / found["base"].name, found["base"], onnx)
    for name in found.keys() - {"base"}:
        share = moved(base, open_checkpoint(found[name]))
        built = artifacts(room / found[name].name, found[name], onnx)
        again = artifacts(room / f"{found[name].name}.reused", found[name], onnx, first) if share else {}
        for type_, file in built.items():
            if file.read_bytes() != first[type_].read_bytes():
                files = {"base": first[type_], "target": file, "target-reused": again.get(type_)}
                lay(out, f"{model}.{name}.{type_}", share, files)
    for one, other in RETYPED:
        lay(out, f"{model}.{one}-to-{other}", 0.0, {"base": first[one], "target": first[other]})
    if "words" in found:
        words = {name: found[of] / "tokenizer.json" for name, of in (("base", "base"), ("target", "words"))}
        lay(out, f"{model}.words.json", 0.0, words)


def artifacts(
    room: Path, folder: Path, onnx: Sequence[str], bases: Mapping[str, Path] | None = None
) -> dict[str, Path]:
    """Return a model's file of each type; with `bases`, those that reuse the scales of theirs."""
    room.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(folder)
    files = {type_: room / f"{type_}.gguf" for type_ in GGUF}
    plans = {
        file: replace(plan_gguf(checkpoint, type_), reuse=Reuse(bases[type_], TOLERANCE) if bases else None)
        for type_, file in files.items()
        if not file.is_file()
    }
    if plans:
        progress(f"building {room.name}: GGUF")
        write_all(checkpoint, plans)
    for type_ in onnx if bases is None else ():
        files[type_] = room / f"{type_}.onnx"
        if not files[type_].is_file():
            progress(f"building {room.name}: ONNX {type_}")
            quantize_onnx(checkpoint, type_, files[type_])
    return files


def lay(out: Path, pair: str, share: float, files: Mapping[str, Path | None]) -> None:
    """Put a pair into its folder, and how far it moved into the list; its bytes lie on the disk once."""
    room = out / pair
    room.mkdir(exist_ok=True)
    for name, file in files.items():
        if file is not None:
            place = room / f"{name}{file.suffix}"
            place.unlink(missing_ok=True)
            place.hardlink_to(file.resolve())
    listed = out / "pairs.json"
    said = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    said[pair] = {"moved": share}
    listed.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

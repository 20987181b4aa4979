"""What an ONNX decoder costs by type: bytes and loss of trained models, CPU time and memory of a larger one.

Compared: slmops' F32, INT8 and INT4 against INT4 as onnxruntime.quantization makes it of the same F32 graph
(MatMulNBitsQuantizer with blocks of 32, symmetric, every MatMul, accuracy level 4). The peer needs the
package onnx_ir, which onnxruntime does not bring; without it there is no peer, and the table says so.

Loss is the divergence from the source over 2048 tokens that the source wrote, for each model folder in
$SLMOPS_MODELS and the demo model. Time is that of a random Llama of a hundred million weights (of nine with
--quick): CPU seconds from the first to the last of TOKENS tokens decoded one by one, on one thread that does
not spin, in a fresh process. Peak memory is that of the process, the runtime included.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from _measure import ROOT, Case, Sample, median, peak, progress, quick, ratio, rounds, run, save, show

from slmops.build.checkpoint import open_checkpoint
from slmops.build.measure import measure_many
from slmops.build.quantize_onnx import quantize_onnx

TYPES: Final = ("F32", "INT8", "INT4")
PEER: Final = "onnxruntime's INT4"
TOKENS: Final = 64
MEASURED: Final = 2048
Size = tuple[int, int, int]
SMALL: Final[Size] = (256, 1024, 4)
USUAL: Final[Size] = (768, 2048, 12)

MAKE: Final = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
out, hidden, inner, layers = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(7)
LlamaForCausalLM(LlamaConfig(
    vocab_size=32000, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
    num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, max_position_embeddings=2048,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
)).save_pretrained(out)
"""
QUANTISE: Final = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
made = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), block_size=32, is_symmetric=True, accuracy_level=4)
made.process()
onnx.save(made.model.model, sys.argv[2])
"""
DECODE: Final = """
import sys, time
from pathlib import Path
from slmops.daemon.onnx import OnnxEngine
engine = OnnxEngine(Path(sys.argv[1]), 512, 1, 64)
engine.feed(range(8))
began = time.process_time()
for token in range(int(sys.argv[2])):
    engine.feed([token])
Path(sys.argv[3]).write_text(str(time.process_time() - began))
"""


def main() -> None:
    """Build, measure the loss, then the time; print both tables and save."""
    small = quick(__doc__)
    count = 2 if small else 5
    with tempfile.TemporaryDirectory(prefix="slmops-bench-") as folder:
        room = Path(folder)
        losses = {model.name: loss(model, room / model.name) for model in trained()}
        progress("making a random Llama")
        run(python(MAKE, room / "model", *(SMALL if small else USUAL)))
        files = build(room / "model", room / "made")
        samples = rounds(count, {name: decoding(file, room / "seconds") for name, file in files.items()})
    lines = [line for name, found in losses.items() for line in loss_rows(name, found)]
    show(
        "Loss of trained models",
        ("model, type", "kB", "KL", "top-1", "KL / slmops INT4"),
        lines,
        without(files),
    )
    found = {name: median(taken) for name, taken in samples.items()}
    title = f"Decoding {TOKENS} tokens on one thread, medians of {count} rounds"
    columns = ("type", "CPU ms a token", "peak MB", "file MB", "CPU / slmops INT4", "file / slmops INT4")
    show(title, columns, [speed_row(name, one, found["INT4"]) for name, one in found.items()], without(files))
    if not small:
        save("onnx_types", samples, rounds=count, tokens=TOKENS, losses=losses)


def trained() -> list[Path]:
    """Return the folders of trained models: the demo's, and those in $SLMOPS_MODELS."""
    models = Path(os.environ.get("SLMOPS_MODELS", ROOT.parent / "shared" / "models"))
    return [ROOT / "demo" / "model", *sorted(file.parent for file in models.glob("*/config.json"))]


def without(files: dict[str, Path]) -> str:
    """Return what is to be known of the peer."""
    return "" if PEER in files else "No peer: the package onnx_ir is not installed."


def build(model: Path, room: Path) -> dict[str, Path]:
    """Write `model` to `room` in every type, the peer's from slmops' F32."""
    room.mkdir()
    files = {}
    for name in TYPES:
        progress(f"building {name} of {model.name}")
        files[name] = room / f"{name}.onnx"
        quantize_onnx(open_checkpoint(model), name, files[name])
    if has_peer():
        files[PEER] = room / "peer.onnx"
        run(python(QUANTISE, files["F32"], files[PEER]))
    return files


def has_peer() -> bool:
    """Say whether onnxruntime's quantiser can be imported."""
    try:
        import onnx_ir  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - may be missing
    except ImportError:
        return False
    return True


def loss(model: Path, room: Path) -> dict[str, dict[str, float]]:
    """Return bytes, divergence and top-1 agreement of every type."""
    files = build(model, room)
    progress(f"measuring {model.name}")
    found = measure_many(open_checkpoint(model), list(files.values()), tokens=MEASURED)
    return {
        name: {"bytes": file.stat().st_size, "kl": one.kl_mean, "top1": one.top1}
        for (name, file), one in zip(files.items(), found, strict=True)
    }


def python(code: str, *words: object) -> list[str | Path]:
    """Return the command that runs `code` in a fresh interpreter."""
    return [sys.executable, "-c", code, *map(str, words)]


def decoding(file: Path, seconds: Path) -> Case:
    """Return the case that decodes TOKENS tokens; its CPU time is that of decoding alone."""

    def decode() -> Sample:
        sample = run(python(DECODE, file, TOKENS, seconds), {"OMP_WAIT_POLICY": "PASSIVE"})
        return replace(sample, cpu_s=float(seconds.read_text()), bytes=file.stat().st_size)

    return decode


def loss_rows(model: str, found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """Return a line for each type of one model."""
    return [
        (
            f"{model}, {name}", f"{one['bytes'] / 1e3:.0f}", f"{one['kl']:.2e}", f"{one['top1']:.1%}",
            ratio(one["kl"], found["INT4"]["kl"]),
        )
        for name, one in found.items()
    ]  # fmt: skip


def speed_row(name: str, one: Sample, mine: Sample) -> tuple[str, ...]:
    """Return one line of the second table."""
    size, own = one.bytes or 0, mine.bytes or 1
    return (
        name, f"{one.cpu_s / TOKENS * 1e3:.1f}", peak(one.peak_mb), f"{size / 1e6:.1f}",
        ratio(one.cpu_s, mine.cpu_s), ratio(size, own),
    )  # fmt: skip


if __name__ == "__main__":
    main()

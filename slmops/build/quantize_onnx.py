"""Write a checkpoint as one ONNX decoder with a key-value cache, its weights in float32 or in bytes.

optimum's exporter traces the model, ONNX Runtime's dynamic quantiser rounds the weights, and the
graph is put right between the two (`graph`). All of it happens in a child process.

Laws: the file appears whole or not at all; plain onnxruntime runs it on x86 and ARM; INT8 weights
are unsigned. Signed ones meet unsigned activations in AVX2 instructions that saturate: a model that
is right on the build machine (VNNI) then loses half its answers on a CPU without.

The graph: input_ids, attention_mask, position_ids (int64), past_key_values.N.key and .value
(float32: batch, heads, tokens, head size) -> logits, present.N.key and .value.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_model import OnnxModel
from slmops.errors import BuildError, MissingPartError, UsageError, install_line

PARTS = ("torch", "transformers", "optimum.exporters.onnx", "onnx", "onnxruntime")
LIMIT_BYTES = 2_100_000_000
"""A protobuf message, and so a model in one file, holds less than 2 GiB; the graph itself needs some."""
BYTES_PER_WEIGHT = {"F32": 4, "INT8": 1}


@dataclass(frozen=True)
class OnnxReport:
    """What was written."""

    type: str
    bytes: int
    parameters: int

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of the file per weight of the model, graph and scales included."""
        return 8 * self.bytes / self.parameters


def quantize_onnx(
    checkpoint: Checkpoint, type_name: str, out: Path, progress: Progress = silent
) -> OnnxReport:
    """Write `checkpoint` to the file `out` as ONNX of type INT8 or F32.

    Takes about 17 bytes of memory per weight while it runs. Raises UsageError for another type,
    MissingPartError without the extra `onnx`, BuildError when the model is too large for one file or
    its family cannot be exported.
    """
    if type_name not in BYTES_PER_WEIGHT:
        raise UsageError(f"no ONNX type {type_name!r}; known are {', '.join(BYTES_PER_WEIGHT)}")
    _check_parts()
    _check_size(checkpoint, type_name)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as room:
        made = Path(room) / "model.onnx"
        isolate("the ONNX export", _export, progress, checkpoint, type_name, made)
        _settle(made)
        made.replace(out)
    return OnnxReport(type=type_name, bytes=out.stat().st_size, parameters=checkpoint.parameters)


def _check_parts() -> None:
    missing = [part for part in PARTS if not _installed(part)]
    if missing:
        raise MissingPartError(
            f"the ONNX export needs {', '.join(missing)}, which is not installed",
            remedy=install_line("onnx"),
        )


def _installed(part: str) -> bool:
    try:
        return importlib.util.find_spec(part) is not None
    except ModuleNotFoundError:
        return False


def _check_size(checkpoint: Checkpoint, type_name: str) -> None:
    needed = checkpoint.parameters * BYTES_PER_WEIGHT[type_name]
    if needed <= LIMIT_BYTES:
        return
    raise BuildError(
        f"{type_name} would be {needed / 1e9:.2f} GB; a model in one ONNX file holds at most "
        f"{LIMIT_BYTES / 1e9:.2f} GB",
        remedy="Use --type INT8 (up to 2.1 billion weights) or --format gguf (any size).",
    )


def _settle(file: Path) -> None:
    """Wait until the bytes of `file` are on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _export(progress: Progress, checkpoint: Checkpoint, type_name: str, made: Path) -> None:
    """Be the child: trace, round, check."""
    progress("loading the exporter", 0.0)
    import onnx  # noqa: PLC0415 - the extra `onnx`, and with it torch, in this process only

    from slmops.build import graph  # noqa: PLC0415

    traced = _trace(progress, checkpoint, made.with_name("traced"))
    model = onnx.load(traced)
    graph.read_embedding_by_column(model)
    if type_name == "INT8":
        progress("rounding the weights", 0.7)
        # The float32 model may be larger than one file holds, and is not to be in memory twice.
        onnx.save(model, made.with_name("exact.onnx"), save_as_external_data=True, location="exact.bin")
        del model
        model = _round_weights(made.with_name("exact.onnx"))
        graph.round_embedding(model)
        graph.round_by_token(model)
    graph.shorten(model)
    progress("checking the graph", 0.9)
    onnx.save(model, made)
    onnx.checker.check_model(made, full_check=True)
    _try(made)
    progress("checking the graph", 1.0)


def _trace(progress: Progress, checkpoint: Checkpoint, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model  # noqa: PLC0415

    from slmops.build.graph import OPSET  # noqa: PLC0415
    from slmops.build.reference import load_reference  # noqa: PLC0415

    model = load_reference(checkpoint, lambda share: progress("loading the source model", 0.3 * share))
    progress("tracing the model", 0.3)
    onnx_export_from_model(model, folder, task="text-generation-with-past", opset=OPSET, do_validation=False)
    return folder / "model.onnx"


def _round_weights(exact: Path) -> Any:
    """Return the model in `exact` with matrices of unsigned bytes, a scale and zero point per column."""
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    rounded = exact.with_name("rounded.onnx")
    quantize_dynamic(
        exact, rounded, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QUInt8
    )
    return onnx.load(rounded)


def _try(made: Path) -> None:
    """Run the graph with and without a cache; raise BuildError unless it says numbers."""
    model = OnnxModel(made)
    said = [model.feed([0, 1, 2]), model.feed([3])]
    if not all(np.isfinite(rows).all() for rows in said):
        raise BuildError(f"{made.name} was built and does not compute: its logits are not finite")

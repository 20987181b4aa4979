"""Write a text classifier as one ONNX graph, its weights in float32 or in bytes.

optimum's exporter traces the model once; from that all that is asked is made. INT8-dynamic rounds
activations token by token as they come; INT8-static by ranges that were seen while texts were read
(calibration), which is up to a fifth faster. All of it happens in a child process.

Laws: files appear whole or not at all; the same checkpoint and texts give the same bytes; plain
onnxruntime runs them on x86 and ARM; weights are unsigned bytes, a scale and zero point per column.
Signed ones meet unsigned activations in AVX2 instructions that saturate: a model that is right on the
build machine (VNNI) then loses half its answers on a CPU without.

The graph: input_ids, attention_mask and, where the family has them, token_type_ids (int64: batch,
tokens) -> logits (float32: batch, labels).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import DYNAMIC, STATIC
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.open_classifier import OnnxClassifier
from slmops.build.quantize_onnx import LIMIT_BYTES, OnnxReport, check_parts
from slmops.errors import BuildError

OPSET = 18
INTEGER_PRODUCTS = ["MatMul", "Gemm"]
MOST_TRACED = LIMIT_BYTES // 4
"""Weights of a model whose float32 graph is one file."""


def quantize_classifier(
    checkpoint: Checkpoint,
    types: Sequence[str],
    room: Path,
    calibration: Sequence[Sequence[int]] = (),
    progress: Progress = silent,
) -> dict[str, tuple[Path, OnnxReport]]:
    """Write `checkpoint` to `room` once for each of `types` (F32, INT8-dynamic, INT8-static).

    `calibration` are the token ids of texts, which INT8-static is calibrated with. Takes about 27 bytes
    of memory per weight while it runs. Raises MissingPartError without the extra `onnx`, BuildError when
    the model is too large for one file or cannot be exported, ModelError for a damaged checkpoint.
    """
    check_parts()
    if checkpoint.parameters > MOST_TRACED:
        raise BuildError(
            f"the classifier has {checkpoint.parameters:,} weights; a graph in one file holds at most "
            f"{MOST_TRACED:,} in float32",
            remedy="Fine-tune a smaller encoder: an edge device reads labels from one of 20 to 70 million.",
        )
    with tempfile.TemporaryDirectory(prefix=".classifier-", dir=room) as inner:
        made = isolate(
            "the ONNX export", _export, progress, checkpoint, list(types), Path(inner), list(calibration)
        )
        for file in made.values():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        settled = {type_name: file.replace(room / file.name) for type_name, file in made.items()}
    return {
        type_name: (file, OnnxReport(type_name, file.stat().st_size, checkpoint.parameters))
        for type_name, file in settled.items()
    }


def _export(
    progress: Progress,
    checkpoint: Checkpoint,
    types: list[str],
    room: Path,
    calibration: list[Sequence[int]],
) -> dict[str, Path]:
    """Be the child: trace, round, check."""
    progress("loading the exporter", 0.0)
    traced = _trace(progress, checkpoint, room / "traced")
    ways: dict[str, Callable[[], Any]] = {
        DYNAMIC: lambda: _round_as_it_comes(traced),
        STATIC: lambda: _round_by_range(traced, calibration),
        "F32": lambda: _leave(traced),
    }
    made = {}
    for done, type_name in enumerate(types, 1):
        made[type_name] = room / f"{type_name}.onnx"
        _finish(ways[type_name](), made[type_name])
        progress(f"made {type_name}", 0.5 + 0.5 * done / len(types))
    return made


def _trace(progress: Progress, checkpoint: Checkpoint, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model  # noqa: PLC0415

    from slmops.build.reference import load_reference  # noqa: PLC0415

    model = load_reference(checkpoint, lambda share: progress("loading the source model", 0.2 * share))
    progress("tracing the model", 0.2)
    onnx_export_from_model(model, folder, task="text-classification", opset=OPSET, do_validation=False)
    return folder / "model.onnx"


def _leave(exact: Path) -> Any:
    import onnx  # noqa: PLC0415 - the extra `onnx`, in this process only

    return onnx.load(exact)


def _round_as_it_comes(exact: Path) -> Any:
    import onnx  # noqa: PLC0415

    from slmops.build import classifier_graph, graph, graph_types  # noqa: PLC0415

    model = onnx.load(exact)
    graph.split_gemm(model)
    graph_types.round_matrices(model, {})
    graph.drop_unread(model)
    classifier_graph.round_tables(model)
    return model


def _round_by_range(exact: Path, calibration: list[Sequence[int]]) -> Any:
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.calibrate import CalibrationDataReader  # noqa: PLC0415

    from slmops.build import classifier_graph  # noqa: PLC0415

    asked, rounded = OnnxClassifier(exact), exact.with_name("rounded.onnx")

    class Read(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not typed
        def __init__(self) -> None:
            self._texts = iter(calibration)

        def get_next(self) -> dict[str, npt.NDArray[np.int64]] | None:
            ids = next(self._texts, None)
            return None if ids is None else asked.inputs(ids)

    quantize_static(
        exact,
        rounded,
        Read(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=INTEGER_PRODUCTS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=classifier_graph.products_of_activations(onnx.load(exact)),
        # A product that leaves as float32 loses less, and the next operator wants it so.
        extra_options={"OpTypesToExcludeOutputQuantization": INTEGER_PRODUCTS},
    )
    model = onnx.load(rounded)
    classifier_graph.put_in_order(model)
    classifier_graph.round_tables(model)
    return model


def _finish(model: Any, made: Path) -> None:
    """Write the graph and run it; raise BuildError unless it says numbers."""
    import onnx  # noqa: PLC0415

    from slmops.build import classifier_graph  # noqa: PLC0415

    classifier_graph.tidy(model)
    onnx.save(model, made)
    onnx.checker.check_model(made, full_check=True)
    if not np.isfinite(OnnxClassifier(made).logits([0, 1, 2])).all():
        raise BuildError(f"{made.name} was built and does not compute: its logits are not finite")

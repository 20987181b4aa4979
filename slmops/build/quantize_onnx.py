"""Write a checkpoint as one ONNX decoder with a key-value cache, its weights in float32, bytes or nibbles.

optimum's exporter traces the model, and the graph is then put right (`graph`) and its weights are rounded
(`graph_types`). What INT4 keeps in bytes, and how the runtime is to round its inputs, is measured on text
that the model writes itself (`study_matrices`). All of it happens in a child process.

Laws: the file appears whole or not at all; the same checkpoint gives the same bytes on the same machine;
plain onnxruntime runs it on x86 and ARM.

Types: F32; INT8, a byte for every weight of a matrix; INT4, MatMulNBits in blocks of 32 with a scale and a
zero, embedding, head and the matrices that bear it least in bytes.

The graph: input_ids, attention_mask, position_ids (int64; not every family asks for it),
past_key_values.N.key and .value (float32: batch, heads, tokens, head size) -> logits, present.N.key and
.value.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slmops.build.checkpoint import Checkpoint
from slmops.build.divergence import divergences
from slmops.build.isolate import Progress, isolate, silent
from slmops.build.nibbles import Nibbles, round_for
from slmops.build.onnx_size import ONNX_TYPES, SENSITIVE_SHARE, predicted_bytes
from slmops.build.open_model import OnnxModel, threads_for
from slmops.errors import BuildError, MissingPartError, UsageError, install_line

TASK = "text-generation-with-past"
PARTS = ("torch", "transformers", "optimum.exporters.onnx", "onnx", "onnxruntime")
LIMIT_BYTES = 2_100_000_000
"""A protobuf message, and so a model in one file, holds less than 2 GiB; the graph itself needs some."""
Importance = Mapping[str, npt.NDArray[np.floating]]
"""Mean squared inputs of each column, by the matrix' name in the checkpoint."""
LEARNED = (32, 128)
"""Texts and tokens of each from which the inputs of the matrices are learned."""
TRIED = 8
"""Texts on which roundings are compared, of 8 to 64 tokens each."""
TRIAL_COST = 2e13
"""Multiplications and additions that comparing the matrices may take: some minutes on two cores."""
RESCALED = (0.01, 100)
"""Bounds of what `importance` may make of the energy of an input."""
FAST, EXACT = 4, 1
"""Accuracy levels of MatMulNBits: inputs as bytes, inputs as they are."""
BEARABLE, UNSEEN = 1.25, 1e-4
"""By how much FAST may raise the divergence, as a factor, or in nats altogether."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written."""

    type: str
    bytes: int
    parameters: int
    types: dict[str, str] = field(default_factory=dict)
    """INT4, INT8 or F32 for each matrix, by its name in the checkpoint."""
    accuracy_level: int | None = None
    """How MatMulNBits rounds its inputs: 4 to bytes, 1 not at all; None where there is none."""
    reason: str = ""
    """Why this accuracy level, with the divergences measured."""
    reused_share: float = 0.0
    """Share of the weights whose scales are those of the file it was to be a small delta from, 0..1."""

    @property
    def bits_per_weight(self) -> float:
        """Return the bits of the file per weight of the model, graph and scales included."""
        return 8 * self.bytes / self.parameters


@dataclass(frozen=True)
class Study:
    """What the source model's own text told."""

    nibbles: dict[str, Nibbles]
    """The matrices that bear four bits."""
    texts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]
    """Logits of the source after every token of the texts."""


def quantize_onnx(
    checkpoint: Checkpoint,
    type_name: str,
    out: Path,
    progress: Progress = silent,
    *,
    importance: Importance | None = None,
) -> OnnxReport:
    """Write `checkpoint` to the file `out` as ONNX of type INT8, INT4 or F32.

    `importance` says how strong the inputs of matrices are in the text they are meant for; INT4 then rounds
    for it. Takes about 17 bytes of memory per weight and 600 MB while it runs, and for INT4 a few minutes of
    measuring. Raises UsageError for another type, MissingPartError without the extra `onnx`, BuildError
    when the model is too large for one file or its family cannot be exported.
    """
    if type_name not in ONNX_TYPES:
        raise UsageError(f"no ONNX type {type_name!r}; known are {', '.join(ONNX_TYPES)}")
    check_parts()
    check_size(type_name, predicted_size(checkpoint, type_name))
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as room:
        made = Path(room) / "model.onnx"
        report = isolate("the ONNX export", _export, progress, checkpoint, type_name, made, importance or {})
        _settle(made)
        made.replace(out)
    return replace(report, bytes=out.stat().st_size)


def check_parts() -> None:
    """Raise MissingPartError unless all that the export needs is installed."""
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


def check_size(type_name: str, nbytes: int) -> None:
    """Raise BuildError when a file of `nbytes` is larger than one ONNX file can be."""
    if nbytes <= LIMIT_BYTES:
        return
    raise BuildError(
        f"{type_name} would be {nbytes / 1e9:.2f} GB; a model in one ONNX file holds at most "
        f"{LIMIT_BYTES / 1e9:.2f} GB",
        remedy="Use a smaller type (--type INT4 takes 3 billion weights) or --format gguf (any size).",
    )


def predicted_size(checkpoint: Checkpoint, type_name: str) -> int:
    """Return the bytes that `quantize_onnx` will write, from the headers of the checkpoint alone."""
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    return predicted_bytes(type_name, shapes, checkpoint.shape.layers)


def _settle(file: Path) -> None:
    """Wait until the bytes of `file` are on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _export(
    progress: Progress, checkpoint: Checkpoint, type_name: str, made: Path, importance: Importance
) -> OnnxReport:
    """Be the child: trace, round, check."""
    progress("loading the exporter", 0.0)
    import onnx  # noqa: PLC0415 - the extra `onnx`, and with it torch, in this process only

    from slmops.build import graph, graph_types  # noqa: PLC0415

    study, traced = _trace(progress, checkpoint, type_name, made.with_name("traced"), importance)
    model = onnx.load(traced)
    graph.split_gemm(model)
    embedding = graph.lookup(model.graph).input[0]
    graph.read_embedding_by_column(model)
    types: dict[str, str] = {}
    if type_name != "F32":
        progress("rounding the weights", 0.8)
        types = graph_types.round_matrices(model, study.nibbles)
        graph_types.round_embedding(model)
        graph.drop_unread(model)
        types[embedding] = "INT8"
    _check_types(study, types)
    graph.merge_twins(model)
    graph.shorten(model)
    progress("checking the graph", 0.9)
    level, reason = _finish(model, made, study)
    onnx.checker.check_model(made, full_check=True)
    _try(made)
    progress("checking the graph", 1.0)
    said = {
        name: types.get(name, "F32") for name, entry in checkpoint.tensors.items() if len(entry.shape) > 1
    }
    return OnnxReport(type_name, made.stat().st_size, checkpoint.parameters, said, level, reason)


def _trace(
    progress: Progress, checkpoint: Checkpoint, type_name: str, folder: Path, importance: Importance
) -> tuple[Study, Path]:
    """Return what the source told, and the file with its graph; the source is out of memory then."""
    from optimum.exporters.onnx import onnx_export_from_model  # noqa: PLC0415

    from slmops.build.graph import OPSET  # noqa: PLC0415
    from slmops.build.reference import load_reference  # noqa: PLC0415

    _check_family(checkpoint)
    model = load_reference(checkpoint, lambda share: progress("loading the source model", 0.2 * share))
    study = Study({}, np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
    if type_name == "INT4":
        study = _study(progress, checkpoint, model, importance)
    progress("tracing the model", 0.6)
    # What it does afterwards it does only where accelerate is installed, and `graph` does it better.
    onnx_export_from_model(model, folder, task=TASK, opset=OPSET, do_validation=False, no_post_process=True)
    return study, folder / "model.onnx"


def _check_family(checkpoint: Checkpoint) -> None:
    """Raise BuildError unless the exporter knows the family, before a weight is read."""
    import transformers  # noqa: PLC0415
    from optimum.exporters.tasks import TasksManager  # noqa: PLC0415

    family = getattr(getattr(transformers, checkpoint.architecture, None), "config_class", None)
    kind = getattr(family, "model_type", checkpoint.architecture)
    known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
    if kind not in known:
        raise BuildError(
            f"{checkpoint.architecture} cannot be exported to ONNX as a decoder with a cache: optimum knows "
            f"no {kind!r}",
            remedy="Use --format gguf.",
        )


def _study(progress: Progress, checkpoint: Checkpoint, model: Any, importance: Importance) -> Study:
    """Round every inner matrix to four bits, and keep those that bear it."""
    import torch  # noqa: PLC0415

    from slmops.build import study_matrices  # noqa: PLC0415

    torch.set_num_threads(threads_for(4 * checkpoint.parameters))
    layers = study_matrices.layers_of(model)
    begin = next((id_ for id_ in (checkpoint.bos_id, *checkpoint.stop_ids) if id_ is not None), None)
    longest = int(getattr(model.config, "max_position_embeddings", LEARNED[1]))
    progress("writing text with the source model", 0.2)
    learned = study_matrices.write_texts(model, begin, (LEARNED[0], min(LEARNED[1], longest)), seed=0)
    length = int(np.clip(TRIAL_COST / (2 * checkpoint.parameters * len(layers) * TRIED), 8, 64))
    tried = study_matrices.write_texts(model, begin, (TRIED, min(length, longest)), seed=1)

    def told(doing: str, start: float) -> Callable[[float], None]:
        return lambda share: progress(doing, start + 0.1 * share)

    inputs = study_matrices.inputs_of(model, layers, learned, told("reading it", 0.3))
    nibbles = {}
    for done, (name, layer) in enumerate(layers.items()):
        progress("rounding to four bits", 0.4 + 0.1 * done / len(layers))
        nibbles[name] = round_for(layer.read(), _weighted(name, inputs[name], importance))
    del inputs
    losses = study_matrices.losses_of(
        model,
        layers,
        lambda name: nibbles[name].values(),
        tried,
        told("trying each matrix in four bits", 0.5),
    )
    spared = most_sensitive(losses, {name: math.prod(nibbles[name].shape) for name in layers})
    bearing = {name: rounded for name, rounded in nibbles.items() if name not in spared}
    return Study(bearing, tried, study_matrices.logits_of(model, tried))


def _weighted(name: str, inputs: npt.NDArray[np.float32], importance: Importance) -> npt.NDArray[np.floating]:
    """Return `inputs` as strong as `importance` says, moving together as the model's own text says."""
    said = importance.get(name)
    if said is None:
        return inputs
    if said.shape != inputs.shape[:1]:
        raise BuildError(f"importance of {name}: expected {len(inputs)} columns, got {list(said.shape)}")
    own = np.maximum(inputs.diagonal(), np.finfo(np.float32).tiny)
    scale = np.sqrt(np.clip(said / own, *RESCALED))
    return inputs * scale * scale[:, None]


def most_sensitive(losses: Mapping[str, float], sizes: Mapping[str, int]) -> set[str]:
    """Return the matrices that lose most per weight, SENSITIVE_SHARE of all weights at the most."""
    room, chosen = SENSITIVE_SHARE * sum(sizes.values()), set[str]()
    for name in sorted(losses, key=lambda name: (-losses[name] / sizes[name], name)):
        if sizes[name] <= room:
            room -= sizes[name]
            chosen.add(name)
    return chosen


def _check_types(study: Study, types: Mapping[str, str]) -> None:
    lost = [name for name in study.nibbles if types.get(name) != "INT4"]
    if lost:
        raise BuildError(
            f"the exported graph has no product with {lost[0]} ({len(lost)} such): the family is not one "
            "that INT4 can be made of",
            remedy="Use --type INT8 or --format gguf.",
        )


def _finish(model: Any, made: Path, study: Study) -> tuple[int | None, str]:
    """Write the graph; choose the accuracy level, where there is one to choose."""
    import onnx  # noqa: PLC0415

    from slmops.build.graph_types import set_accuracy_level  # noqa: PLC0415

    if not study.nibbles:
        onnx.save(model, made)
        return None, ""
    loss = {}
    for level in (EXACT, FAST):
        set_accuracy_level(model, level)
        onnx.save(model, made)
        loss[level] = _loss(made, study)
    chosen = choose_level(loss[FAST], loss[EXACT])
    if chosen != FAST:
        set_accuracy_level(model, chosen)
        onnx.save(model, made)
    return chosen, (
        f"divergence over {study.texts.size} tokens: {loss[FAST]:.3g} nats with inputs in bytes (level "
        f"{FAST}), {loss[EXACT]:.3g} with inputs as they are (level {EXACT}); the first is faster and may "
        f"have {BEARABLE:g} times the second's"
    )


def choose_level(fast: float, exact: float) -> int:
    """Return the accuracy level, from the divergences measured with each."""
    return FAST if fast <= max(BEARABLE * exact, UNSEEN) else EXACT


def _loss(made: Path, study: Study) -> float:
    """Return the mean divergence, half of each text fed in one go and the rest token by token."""
    model, said = OnnxModel(made), []
    for text in study.texts.tolist():
        half = (len(text) + 1) // 2
        model.restart()
        said += [model.feed(text[:half]), *(model.feed([id_]) for id_ in text[half:])]
    return float(divergences(study.rows, np.concatenate(said)).mean())


def _try(made: Path) -> None:
    """Run the graph with and without a cache; raise BuildError unless it says numbers."""
    model = OnnxModel(made)
    said = [model.feed([0, 1, 2]), model.feed([3])]
    if not all(np.isfinite(rows).all() for rows in said):
        raise BuildError(f"{made.name} was built and does not compute: its logits are not finite")

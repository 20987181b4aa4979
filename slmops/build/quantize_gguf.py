"""Write a checkpoint as GGUF files of one or several types in one streaming pass.

safetensors -> ggml's own quantiser (the shared library inside llama-cpp-python) -> GGUF; no torch, no
intermediate file. What the tensors are called and which type they get is decided elsewhere.

Laws: the same checkpoint, types and importance give the same bytes, whatever else is made in the same
pass; memory is bounded by PIECE, not by the model; each file appears whole or not at all; a weight that
is no number, or that the type cannot hold, is an error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from slmops.build.checkpoint import Checkpoint
from slmops.build.family import GgufTensor, build_of, family_of, layout, metadata
from slmops.build.ggml import Quantizer
from slmops.build.importance import Importance
from slmops.build.pieces import Rows, pieces
from slmops.build.read_blocks import Blocks, blocks_of
from slmops.build.reuse_scales import Alternative, alternative
from slmops.build.scheme import (
    FILE_TYPES,
    GGML_TYPES,
    Fallback,
    Scheme,
    Value,
    choose,
    compose,
    keys_bytes,
    predicted_bytes,
)
from slmops.build.sketch import Sketch
from slmops.build.vocabulary import Ends, vocabulary
from slmops.errors import BuildError, ModelError

Bytes = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float32] | None
"""What the columns of a matrix matter, where that is known."""
Progress = Callable[[int, int], None]
"""Told how many weights are written, and of how many."""

PIECE = 1 << 20
"""Weights read, quantised and written at a time: 4 MiB of float32."""


@dataclass(frozen=True)
class GgufReport:
    """What was written."""

    bytes: int
    bits_per_weight: float
    types: dict[str, str]
    """ggml type of every tensor, by GGUF name."""
    fallbacks: tuple[Fallback, ...]
    """Tensors whose shape did not allow the type they should have had."""
    fallback_share: float
    """Share of the weights in them, 0..1."""
    reused_share: float = 0.0
    """Share of the weights whose block has the scales of the file it was to be a small delta from, 0..1."""


@dataclass(frozen=True)
class Reuse:
    """An earlier file of the model, and how much worse than its own a block may fare with its scales."""

    file: Path
    tolerance: float
    """By how much the squared error of a block may grow, as a share."""


@dataclass(frozen=True)
class GgufPlan:
    """Everything of the file but the weights."""

    arch: str
    keys: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    scheme: Scheme
    importance: Importance | None
    predicted_bytes: int
    reuse: Reuse | None = None


def unheard(_done: int, _total: int) -> None:
    """Take no notice of progress."""


def plan_gguf(
    checkpoint: Sketch,
    type_name: str,
    types: Mapping[str, str] | None = None,
    importance: Importance | None = None,
) -> GgufPlan:
    """Return what `quantize_gguf` would write, and raise what it would; reads no weights.

    `types` gives a ggml type for each tensor by GGUF name, and `type_name` is then a mere label.
    """
    tensors, said = _for_any_type(checkpoint)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    build = build_of(checkpoint.architecture, checkpoint.config)
    if types is None:
        scheme = choose(shapes, type_name, replace(build, importance=importance is not None))
    else:
        scheme = compose(shapes, types)
    keys: dict[str, Value] = {"general.file_type": FILE_TYPES[scheme.file_type].id, **said}
    if importance is not None:
        keys |= {
            "quantize.imatrix.dataset": importance.digest,
            "quantize.imatrix.entries_count": len(importance.columns),
            "quantize.imatrix.chunks_count": importance.sequences,
        }
    arch = family_of(checkpoint.architecture).arch
    size = predicted_bytes(shapes, scheme, keys_bytes({"general.architecture": arch, **keys}))
    return GgufPlan(arch, keys, tensors, scheme, importance, size)


@lru_cache(maxsize=1)
def _for_any_type(checkpoint: Sketch) -> tuple[tuple[GgufTensor, ...], dict[str, Value]]:
    """Return what does not depend on the type; kept, because a large vocabulary takes half a second."""
    config = checkpoint.config
    tensors = layout(checkpoint.architecture, config, checkpoint.shapes)
    keys: dict[str, Value] = {
        "general.type": "model",
        "general.quantization_version": 2,
        **metadata(checkpoint.architecture, config),
        **vocabulary(
            _tokenizer(checkpoint), config["vocab_size"], _ends(checkpoint), checkpoint.chat_template
        ),
    }
    return tensors, keys


def quantize_gguf(
    checkpoint: Checkpoint, type_name: str, out: Path, progress: Progress = unheard
) -> GgufReport:
    """Write `checkpoint` to `out` as `type_name`; on any error `out` is as it was."""
    return write_all(checkpoint, {out: plan_gguf(checkpoint, type_name)}, progress)[out]


def write_all(
    checkpoint: Checkpoint, plans: Mapping[Path, GgufPlan], progress: Progress = unheard
) -> dict[Path, GgufReport]:
    """Write a file for each plan, all from one reading of the weights; what two files share is rounded once.

    On any error no file is written.
    """
    with contextlib.ExitStack() as stack:
        quantizer = stack.enter_context(Quantizer())
        needed = sum(plan.predicted_bytes for plan in plans.values())
        bases = {file: blocks_of(file) for file in {plan.reuse.file for plan in plans.values() if plan.reuse}}
        writers = [
            stack.enter_context(_opened(plan, stack.enter_context(whole_file(out, needed)), bases))
            for out, plan in plans.items()
        ]
        _write(checkpoint, writers, quantizer, progress)
    return {out: _report(out, each) for out, each in zip(plans, writers, strict=True)}


def _report(out: Path, written: _Opened) -> GgufReport:
    scheme = written.plan.scheme
    return GgufReport(
        bytes=out.stat().st_size,
        bits_per_weight=scheme.bits_per_weight,
        types=scheme.types,
        fallbacks=scheme.fallbacks,
        fallback_share=scheme.fallback_share,
        reused_share=written.reused / sum(math.prod(tensor.shape) for tensor in written.plan.tensors),
    )


@contextlib.contextmanager
def whole_file(out: Path, nbytes: int) -> Iterator[Path]:
    """Yield a path beside `out` that becomes `out` at the end, on disk for good; on any error it goes.

    Raises BuildError when `nbytes` will not fit, or when writing fails.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        free = shutil.disk_usage(out.parent).free
        if free < nbytes:
            raise BuildError(
                f"{out.parent} has {free} bytes free, {out.name} needs {nbytes}",
                remedy="Free some space, or write to another disk.",
            )
        yield partial
        _fsync(partial)
        partial.replace(out)
        _fsync(out.parent)
    except OSError as error:
        raise BuildError(f"cannot write {out}: {error}", remedy="Check the disk and its rights.") from error
    finally:
        partial.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(plan: GgufPlan, partial: Path, bases: Mapping[Path, Mapping[str, Blocks]]) -> Iterator[_Opened]:
    """Yield the file with its header written, ready for the tensors in their order."""
    writer = GGUFWriter(None, plan.arch)
    for key, value in plan.keys.items():
        _add(writer, key, value)
    for tensor in plan.tensors:
        kind = GGML_TYPES[plan.scheme.types[tensor.name]]
        raw = GGMLQuantizationType(kind.id)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), kind.size(tensor.shape), raw)
    with contextlib.closing(writer):
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield _Opened(plan, writer, bases[plan.reuse.file] if plan.reuse else {})


def _write(
    checkpoint: Checkpoint, files: Sequence[_Opened], quantizer: Quantizer, progress: Progress
) -> None:
    tensors = files[0].plan.tensors
    done, total = 0, sum(math.prod(tensor.shape) for tensor in tensors)
    for each in files:
        each.pad()
    for tensor in tensors:
        start = 0
        for rows in pieces(checkpoint, tensor, PIECE):
            rounded = _Rounded(rows, quantizer)
            for each in files:
                each.add(tensor, start, rounded)
            start += len(rows)
            done += rows.size
            progress(done, total)
        for each in files:
            each.pad()


@dataclass
class _Opened:
    """A GGUF file whose tensor data is being written."""

    plan: GgufPlan
    writer: Any
    base: Mapping[str, Blocks]
    """Of the tensors of an earlier file, whose scales may be reused."""
    reused: int = 0
    """Weights whose scales are those of an earlier file."""

    def add(self, tensor: GgufTensor, start: int, rounded: _Rounded) -> None:
        """Write the rows of `tensor` from `start` on."""
        type_name, importance = self.plan.scheme.types[tensor.name], self.plan.importance
        weights = None if importance is None else importance.columns.get(tensor.source)
        base, made = self.base.get(tensor.name), rounded.own(type_name, weights)
        if self.plan.reuse and base and (base.type, base.shape) == (type_name, tensor.shape):
            found = rounded.reusing(type_name, weights, self.plan.reuse.file, base, start)
            made, blocks = found.within(self.plan.reuse.tolerance)
            self.reused += blocks * GGML_TYPES[type_name].block
        self.writer.fout[0].write(made.data)

    def pad(self) -> None:
        """Go on to where the next tensor may begin."""
        file = self.writer.fout[0]
        self.writer.write_padding(file, file.tell())


class _Rounded:
    """Some rows of a tensor, rounded once for all files that want them so."""

    def __init__(self, rows: Rows, quantizer: Quantizer) -> None:
        self._rows, self._quantizer = np.atleast_2d(rows), quantizer
        self._own: dict[tuple[str, bool], Bytes] = {}
        self._reusing: dict[tuple[str, bool, Path], Alternative] = {}

    def own(self, type_name: str, weights: Weights) -> Bytes:
        """Return what the quantiser makes of them."""
        key = type_name, weights is not None
        if key not in self._own:
            self._own[key] = self._quantizer(type_name, self._rows, weights)
        return self._own[key]

    def reusing(self, type_name: str, weights: Weights, file: Path, base: Blocks, start: int) -> Alternative:
        """Return what they are with the scales of a base, whose rows begin at `start`."""
        key = type_name, weights is not None, file
        if key not in self._reusing:
            theirs = base.rows[start : start + len(self._rows)]
            own = self.own(type_name, weights)
            self._reusing[key] = alternative(type_name, self._rows, own, theirs, weights)
        return self._reusing[key]


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_key_value(key, value, kinds[type(value)])


def _tokenizer(checkpoint: Sketch) -> Mapping[str, Any]:
    file = checkpoint.words()
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "vocab" not in said.get("model", {}):
        raise ModelError(f"{file} holds no vocabulary", remedy="Copy or download it again.")
    return said


def _ends(checkpoint: Sketch) -> Ends:
    return Ends(
        bos=checkpoint.bos_id,
        stop=checkpoint.stop_ids,
        add_bos=checkpoint.add_bos,
        pad=checkpoint.special_tokens.get("pad_token"),
        unknown=checkpoint.special_tokens.get("unk_token"),
    )

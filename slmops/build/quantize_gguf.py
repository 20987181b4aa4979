"""Write a checkpoint as a quantised GGUF file in one streaming pass.

safetensors -> ggml's own quantiser (the shared library inside llama-cpp-python) -> GGUF; no torch, no
intermediate file. What the tensors are called and which type they get is decided elsewhere.

Laws: the same checkpoint and type give the same bytes; memory is bounded by PIECE, not by the model;
`out` appears whole or not at all; a weight that is no number, or that the type cannot hold, is an error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from slmops.build.checkpoint import Checkpoint
from slmops.build.family import GgufTensor, build_of, family_of, layout, metadata
from slmops.build.ggml import Quantizer
from slmops.build.pieces import pieces
from slmops.build.scheme import (
    FILE_TYPES,
    GGML_TYPES,
    Fallback,
    Scheme,
    Value,
    choose,
    keys_bytes,
    predicted_bytes,
)
from slmops.build.vocabulary import Ends, vocabulary
from slmops.errors import BuildError, ModelError

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


@dataclass(frozen=True)
class GgufPlan:
    """Everything of the file but the weights."""

    arch: str
    keys: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    scheme: Scheme
    predicted_bytes: int


def unheard(_done: int, _total: int) -> None:
    """Take no notice of progress."""


def plan_gguf(checkpoint: Checkpoint, type_name: str) -> GgufPlan:
    """Return what `quantize_gguf` would write, and raise what it would; reads no weights."""
    tensors, said = _for_any_type(checkpoint)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    scheme = choose(shapes, type_name, build_of(checkpoint.architecture, checkpoint.config))
    keys: dict[str, Value] = {"general.file_type": FILE_TYPES[type_name].id, **said}
    arch = family_of(checkpoint.architecture).arch
    size = predicted_bytes(shapes, scheme, keys_bytes({"general.architecture": arch, **keys}))
    return GgufPlan(arch=arch, keys=keys, tensors=tensors, scheme=scheme, predicted_bytes=size)


@lru_cache(maxsize=1)
def _for_any_type(checkpoint: Checkpoint) -> tuple[tuple[GgufTensor, ...], dict[str, Value]]:
    """Return what does not depend on the type; kept, because a large vocabulary takes half a second."""
    config = checkpoint.config
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    tensors = layout(checkpoint.architecture, config, shapes)
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
    plan = plan_gguf(checkpoint, type_name)
    with Quantizer() as quantizer, whole_file(out, plan.predicted_bytes) as partial:
        _write(checkpoint, plan, quantizer, partial, progress)
    return GgufReport(
        bytes=out.stat().st_size,
        bits_per_weight=plan.scheme.bits_per_weight,
        types=plan.scheme.types,
        fallbacks=plan.scheme.fallbacks,
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


def _write(
    checkpoint: Checkpoint, plan: GgufPlan, quantizer: Quantizer, partial: Path, progress: Progress
) -> None:
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
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        done, total = 0, sum(math.prod(tensor.shape) for tensor in plan.tensors)
        for tensor in plan.tensors:
            for rows in pieces(checkpoint, tensor, PIECE):
                file.write(quantizer(plan.scheme.types[tensor.name], np.atleast_2d(rows)).data)
                done += rows.size
                progress(done, total)
            writer.write_padding(file, file.tell())


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_key_value(key, value, kinds[type(value)])


def _tokenizer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    folder = checkpoint.folder
    if checkpoint.tokenizer is None:
        raise ModelError(
            f"{folder} has no tokenizer.json",
            remedy='Write it once: python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{folder}', use_fast=True).save_pretrained('{folder}')\"",
        )
    said: dict[str, Any] = json.loads(checkpoint.tokenizer.read_text(encoding="utf-8"))
    if "vocab" not in said.get("model", {}):
        raise ModelError(f"{checkpoint.tokenizer} holds no vocabulary", remedy="Copy or download it again.")
    return said


def _ends(checkpoint: Checkpoint) -> Ends:
    return Ends(
        bos=checkpoint.bos_id,
        stop=checkpoint.stop_ids,
        add_bos=checkpoint.add_bos,
        pad=checkpoint.special_tokens.get("pad_token"),
        unknown=checkpoint.special_tokens.get("unk_token"),
    )

"""Find the tensors of a model folder, and read their numbers from disk.

Knows safetensors files, single and sharded; nothing of what a tensor is for.

Laws: a tensor is listed only if all its bytes are there; numbers are read when they are asked for and
nowhere kept, so memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slmops.errors import ModelError

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
FETCH_AGAIN = "Copy or download the folder again; the file did not arrive whole."
_BUFFERS = (
    "rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".embeddings.position_ids",
    ".embeddings.token_type_ids",
)
"""What old checkpoints store although it follows from the config."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `nbytes` bytes at `offset` of `file`, row-major, little-endian."""

    file: Path
    dtype: str
    """F32, F16 or BF16."""
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def find_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Return the tensors of `folder` by their stored names; raise ModelError if one is not whole."""
    tensors: dict[str, TensorEntry] = {}
    for file in _weight_files(folder):
        for name, entry in _read_header(file).items():
            if name in tensors:
                raise ModelError(
                    f"tensor {name} is in both {tensors[name].file} and {file}", remedy=FETCH_AGAIN
                )
            if not name.endswith(_BUFFERS):
                tensors[name] = entry
    for name, entry in tensors.items():
        _check_entry(name, entry)
    return tensors


def tensors_of(file: Path) -> dict[str, TensorEntry]:
    """Return the tensors of one safetensors file by name; raise ModelError if one is not whole."""
    tensors = _read_header(file)
    for name, entry in tensors.items():
        _check_entry(name, entry)
    return tensors


def read_rows(entry: TensorEntry, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return rows `start` to `stop` (first axis) as float32."""
    row = entry.nbytes // entry.shape[0]
    raw = _read(entry, [(start * row, (stop - start) * row)])
    return _as_float32(raw, entry.dtype).reshape(stop - start, *entry.shape[1:])


def read_columns(entry: TensorEntry, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return columns `start` to `stop` of a matrix as float32, each as a row; reads no others."""
    rows, columns = entry.shape
    width = WIDTHS[entry.dtype]
    spans = [((row * columns + start) * width, (stop - start) * width) for row in range(rows)]
    found = _as_float32(_read(entry, spans), entry.dtype).reshape(rows, stop - start)
    return np.ascontiguousarray(found.T)


def _read(entry: TensorEntry, spans: list[tuple[int, int]]) -> bytes:
    """Return the bytes of each (offset in the tensor, length), one after the other."""
    with entry.file.open("rb", buffering=0) as file:
        raw = b"".join(os.pread(file.fileno(), length, entry.offset + offset) for offset, length in spans)
    if len(raw) != sum(length for _, length in spans):
        raise ModelError(f"{entry.file} shrank while it was read", remedy=FETCH_AGAIN)
    return raw


def _as_float32(raw: bytes, dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    # bfloat16 is the upper half of a float32.
    return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in `file`; of a file that is not there, an empty one."""
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}", remedy=FETCH_AGAIN) from error
    if not isinstance(said, dict):
        raise ModelError(f"{file}: expected an object, got {type(said).__name__}", remedy=FETCH_AGAIN)
    return said


def _weight_files(folder: Path) -> list[Path]:
    named = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    files = sorted({folder / str(name) for name in named.values()} or folder.glob("model*.safetensors"))
    if not files:
        raise _no_weights(folder)
    shards = [(file, re.search(r"-(\d+)-of-(\d+)\.safetensors$", file.name)) for file in files]
    wanted = {
        file.with_name(f"{file.name[: m.start()]}-{i:0{len(m[1])}}-of-{m[2]}.safetensors")
        for file, m in shards
        if m
        for i in range(1, int(m[2]) + 1)
    }
    missing = sorted(file.name for file in {*wanted, *files} if not file.is_file())
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len({*wanted, *files})} weight files missing: "
            + ", ".join(missing),
            remedy="Download what is missing into the same folder.",
        )
    return files


def _no_weights(folder: Path) -> ModelError:
    if any(folder.glob("pytorch_model*.bin")):
        return ModelError(
            f"{folder} has its weights as pytorch_model.bin; expected safetensors",
            remedy=f'Convert it once: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        )
    return ModelError(
        f"{folder}: expected model.safetensors or its shards, found no weights",
        remedy="Give the folder that save_pretrained wrote, with config.json and *.safetensors.",
    )


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """Return the tensors of one safetensors file; raise ModelError unless it is as long as they say."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == b"version ":
            raise ModelError(
                f"{file} is a Git LFS pointer, not weights", remedy="Run `git lfs pull` in the folder."
            )
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= size - 8:  # noqa: PLR2004 - the shortest JSON object
            raise ModelError(f"{file} is cut off or no safetensors file: {size} bytes", remedy=FETCH_AGAIN)
        text = stream.read(length)
    try:
        said = json.loads(text)
        said.pop("__metadata__", None)
        entries = {name: _entry(file, 8 + length, fields) for name, fields in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: its header is damaged: {error!r}", remedy=FETCH_AGAIN) from error
    whole = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if size != whole:
        raise ModelError(f"{file} is not whole: expected {whole} bytes, got {size}", remedy=FETCH_AGAIN)
    return entries


def _entry(file: Path, base: int, fields: Mapping[str, Any]) -> TensorEntry:
    start, stop = fields["data_offsets"]
    return TensorEntry(
        file, str(fields["dtype"]), tuple(int(n) for n in fields["shape"]), base + start, stop - start
    )


def _check_entry(name: str, entry: TensorEntry) -> None:
    if entry.dtype not in WIDTHS:
        raise ModelError(
            f"{entry.file}: {name} has type {entry.dtype}; expected one of {', '.join(WIDTHS)}",
            remedy="Start from the unquantised checkpoint (F32, F16 or BF16) of the same model.",
        )
    expected = math.prod(entry.shape) * WIDTHS[entry.dtype]
    if entry.nbytes != expected or not entry.shape or not expected:
        raise ModelError(
            f"{entry.file}: {name} {list(entry.shape)} needs {expected} bytes, it has {entry.nbytes}",
            remedy=FETCH_AGAIN,
        )

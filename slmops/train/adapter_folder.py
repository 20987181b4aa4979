"""The folder of an adapter: what peft reads, what llama.cpp reads, and what it was made from.

adapter_config.json and adapter_model.safetensors are peft's; adapter.json names the base and the samples;
adapter.gguf is there where llama.cpp can use it.

Laws: until adapter_config.json is there it is no adapter, and that comes last; what could not be
written whole leaves nothing of itself; an adapter is never put on another model than its own.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from slmops import digest as digests
from slmops.build.checkpoint import Checkpoint
from slmops.build.open_adapter import CONFIG, GGUF, ORIGIN, WEIGHTS
from slmops.errors import BuildError, IntegrityError, ModelError, TrainingError
from slmops.train.adapter import Adapter, Origin, assembled
from slmops.train.adapter_gguf import write_adapter_gguf

__all__ = ["GGUF", "WEIGHTS", "check_base", "read_adapter", "write_adapter"]

README = "README.md"
WRITING = ".writing"
_AGAIN = "Copy the folder again, or train the adapter again with `slmops finetune MODEL --lora r=8`."


def write_adapter(folder: Path, adapter: Adapter, base: Checkpoint | None) -> str:
    """Write `adapter` to `folder`; return why there is no adapter.gguf, or nothing where there is one.

    Without a base there is none. Raises BuildError when the disk does not take it.
    """
    room = folder / WRITING
    try:
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir(parents=True)
        (room / WEIGHTS).write_bytes(save(dict(adapter.tensors), {"format": "pt"}))
        _write_json(room / ORIGIN, asdict(adapter.origin))
        _write_json(room / CONFIG, dict(adapter.config))
        (room / README).write_text(_card(adapter), encoding="utf-8")
        missing = _write_gguf(room / GGUF, adapter, base)
        _put(room, folder)
    except OSError as error:
        raise BuildError(
            f"{folder} could not be written: {error.strerror or error}",
            remedy="Make room on its disk, or give --out a folder on another one; nothing was left there.",
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return missing


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in `folder`; raise TrainingError when it is not whole, or does more than LoRA."""
    said = {name: _read_json(folder / name) for name in (CONFIG, ORIGIN)}
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} cannot be read: {error}", remedy=_AGAIN) from error
    found = {name: tensor.astype("f4") for name, tensor in tensors.items()}
    return assembled(said[CONFIG], found, _origin(folder / ORIGIN, said[ORIGIN]), str(folder))


def check_base(adapter: Adapter, base: Checkpoint) -> None:
    """Raise TrainingError unless `base` is the model that `adapter` was made for."""
    shapes = base.shapes
    for name, factors in adapter.factors.items():
        said = shapes.get(f"{name}.weight")
        if said not in (factors.shape, factors.shape[::-1]):
            raise TrainingError(
                f"{base.folder} is not the base of this adapter: {name} is {list(factors.shape)} in the "
                f"adapter, {list(said) if said else 'missing'} in the model",
                remedy=f"Give the model that it was trained on: {adapter.origin.base}.",
            )
    if base.digest != adapter.origin.base_digest:
        raise TrainingError(
            f"{base.folder} is not the base of this adapter: expected {adapter.origin.base} with digest "
            f"{digests.short(adapter.origin.base_digest)}, got {digests.short(base.digest)}",
            remedy="Give the model that it was trained on, as it was then.",
        )


def _write_gguf(file: Path, adapter: Adapter, base: Checkpoint | None) -> str:
    if base is None:
        return "its base was not given"
    try:
        write_adapter_gguf(adapter, base, file)
    except ModelError as error:
        return str(error)
    return ""


def _put(room: Path, folder: Path) -> None:
    """Move what was written to its place, the config last; what an earlier adapter left goes first."""
    (folder / CONFIG).unlink(missing_ok=True)
    (folder / GGUF).unlink(missing_ok=True)
    for file in sorted(room.iterdir(), key=lambda file: file.name == CONFIG):
        file.replace(folder / file.name)


def _write_json(file: Path, said: dict[str, Any]) -> None:
    file.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise TrainingError(
            f"{file}: no such file",
            remedy="Give the folder of an adapter, as `slmops finetune MODEL --lora r=8` writes it.",
        )
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read: {error}", remedy=_AGAIN) from error
    if not isinstance(said, dict):
        raise TrainingError(f"{file}: expected an object, got {type(said).__name__}", remedy=_AGAIN)
    return said


def _origin(file: Path, said: dict[str, Any]) -> Origin:
    try:
        samples, seed = int(said["samples"]), said.get("seed")
        return Origin(str(said["base"]), digests.parse(str(said["base_digest"])), samples, seed)
    except (KeyError, TypeError, ValueError, IntegrityError) as error:
        raise TrainingError(
            f"{file}: expected base, base_digest and samples, got {', '.join(sorted(said)) or 'nothing'}",
            remedy=_AGAIN,
        ) from error


def _card(adapter: Adapter) -> str:
    origin = adapter.origin
    return (
        f"---\nbase_model: {json.dumps(origin.base)}\nlibrary_name: peft\ntags: [lora]\n---\n\n"
        f"A LoRA adapter of rank {adapter.rank} for {origin.base}, {adapter.parameters:,} numbers, "
        f"trained on {origin.samples:,} samples.\n\nIt belongs to the model with digest "
        f"`{origin.base_digest}` and to no other.\n"
    )

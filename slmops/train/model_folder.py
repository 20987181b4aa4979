"""A Hugging Face folder that is being written.

Laws: until config.json is there it is no model, and config.json comes last; what was in the folder
before (a run, a ledger) stays, but for weights and words of an earlier model; what could not be written
whole leaves nothing of itself.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slmops.artifact import golden as goldens
from slmops.build.read_origin import CARD, license_of
from slmops.build.sketch import SIDE_FILES, Sketch
from slmops.errors import BuildError

CONFIG = "config.json"
RUN = "run"
"""Folder of a training, in the folder of what it makes."""
WRITING = ".writing"
READABLE = 0o644
BESIDE = (*(name for name in SIDE_FILES if name != CONFIG), goldens.FILE_NAME)
"""What goes along with the weights: words, template, sampling defaults, golden prompts."""
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def write_model(folder: Path, model: Any, source: Sketch, files: Mapping[str, bytes] | None = None) -> None:
    """Write a transformers `model` to `folder`, in the number type of `source` and with its words.

    `files` go beside it, by name; one that has the name of a file of the source takes its place, and an
    empty one leaves it out. Raises BuildError when the disk does not take it.
    """
    room = folder / WRITING
    try:
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir(parents=True)
        _save(model, source, room)
        beside = {name: _bytes(source.folder / name) for name in BESIDE} | _terms(source, folder)
        beside |= dict(files or {})
        for name, data in beside.items():
            if data:
                (room / name).write_bytes(data)
        _put(room, folder)
    except OSError as error:
        raise BuildError(
            f"{folder} could not be written: {error.strerror or error}",
            remedy="Make room on its disk, or give --out a folder on another one; nothing was left there.",
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _save(model: Any, source: Sketch, room: Path) -> None:
    kind = _TYPES.get(str(source.config.get("torch_dtype", "")).removeprefix("torch."), torch.float32)
    # A copy, not its state: what is tied must stay so.
    shipped = model if model.dtype == kind else copy.deepcopy(model).to(kind)
    shipped.save_pretrained(room, safe_serialization=True)
    (room / "generation_config.json").unlink(missing_ok=True)
    said = json.loads((room / CONFIG).read_text(encoding="utf-8"))
    # The name that every version of transformers reads.
    said.pop("dtype", None)
    said["torch_dtype"] = str(kind).removeprefix("torch.")
    (room / CONFIG).write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _put(room: Path, folder: Path) -> None:
    """Move what was written to its place, config.json last; an earlier model goes first."""
    (folder / CONFIG).unlink(missing_ok=True)
    words = (folder / name for name in SIDE_FILES)
    for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json"), *words]:
        old.unlink(missing_ok=True)
    for file in sorted(room.iterdir(), key=lambda file: file.name == CONFIG):
        # safetensors writes for its own user alone.
        file.chmod(READABLE)
        file.replace(folder / file.name)


def _terms(source: Sketch, folder: Path) -> dict[str, bytes]:
    """Return the license that goes along, where the source says one; a card that is there already stays."""
    found = {file.name: file.read_bytes() for file in source.folder.glob("LICENSE*") if file.is_file()}
    name = license_of(source.folder)
    if name is not None and not (folder / CARD).exists():
        found[CARD] = f"---\nlicense: {json.dumps(name)}\n---\n\nUnder the license of its source.\n".encode()
    return found


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""

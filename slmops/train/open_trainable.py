"""Open a model that is to be trained or cut: its weights in float32, or new ones where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from slmops.build.checkpoint import Checkpoint
from slmops.build.isolate import Progress, silent
from slmops.build.reference import load_reference
from slmops.build.sketch import sketch
from slmops.build.source import GgufSource, open_model
from slmops.errors import ModelError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
"""Files of weights, or that name them; where they cannot be read, opening the folder says what to do."""


def open_teacher(said: str) -> Checkpoint:
    """Return the checkpoint of a folder or a hub id; raise ModelError where there are no weights to train."""
    found = open_model(said)
    if isinstance(found, GgufSource):
        raise ModelError(
            f"{said}: a .gguf file holds rounded weights, which cannot be trained or cut",
            remedy="Give the Hugging Face folder, or the hub id, that it was made from.",
        )
    return found


def load_weights(checkpoint: Checkpoint, progress: Progress = silent) -> Any:
    """Return the transformers model of a checkpoint in float32, in evaluation mode."""
    name = f"loading {checkpoint.folder.name}"
    return load_reference(checkpoint, lambda share: progress(name, share))


def new_model(folder: Path, seed: int) -> Any:
    """Return a model with new weights, drawn with `seed`, of the shape that `folder`/config.json says."""
    drawn = sketch(folder)
    family = getattr(transformers, drawn.architecture, None)
    if family is None:
        raise ModelError(f"{folder}: transformers has no {drawn.architecture}")
    torch.manual_seed(seed)
    try:
        return family(family.config_class.from_dict(drawn.config)).eval()
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}: config.json does not describe a {drawn.architecture}: {error}"
        ) from error


def has_weights(folder: Path) -> bool:
    """Return whether there are weights in `folder`, in whatever form, or only the shape of a model."""
    return any(file for form in WEIGHTS for file in folder.glob(form))

"""The source model itself, in transformers float32: what every artifact is measured against.

Built from the checkpoint's normalised config and canonical tensors, not by `from_pretrained`,
which refuses or misreads some folders that are whole: a tied embedding stored as the head alone,
a config or a tokenizer class of a later transformers.

Laws: every weight of the model comes from the checkpoint and every tensor of the checkpoint is
used; what is built is float32, whatever was stored. Call it in a child process: torch stays loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_utils import no_init_weights

from slmops.build.checkpoint import Checkpoint
from slmops.build.read_tensors import TensorEntry, read_rows
from slmops.errors import ModelError

CHUNK_BYTES = 16 << 20


def load_reference(checkpoint: Checkpoint, told: Callable[[float], None]) -> Any:
    """Return the model, ready to answer; `told` hears the share of its tensors that is in place."""
    model = _empty(checkpoint)
    weights = dict(model.named_parameters())
    _check_names(checkpoint, weights)
    for done, (name, weight) in enumerate(weights.items(), 1):
        _fill(name, weight, checkpoint.tensors[name])
        told(done / len(weights))
    return model.eval()


def _empty(checkpoint: Checkpoint) -> Any:
    family = getattr(transformers, checkpoint.architecture, None)
    if family is None:
        raise ModelError(
            f"{checkpoint.folder}: transformers has no {checkpoint.architecture}",
            remedy="Use a model that transformers has, such as a Llama or a Qwen.",
        )
    try:
        config = family.config_class.from_dict(
            {**_in_its_words(checkpoint), "tie_word_embeddings": checkpoint.tied}
        )
        with no_init_weights():
            model = family(config)
        if getattr(config, "attn_logit_softcapping", None):
            # Only this implementation caps the scores, as they were in training.
            model.set_attn_implementation("eager")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{checkpoint.folder}: config.json does not describe a {checkpoint.architecture}: {error}",
            remedy="Use the config.json that was saved with these weights.",
        ) from error
    model.tie_weights()
    return model


def _in_its_words(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config; Phi-3's class knows the kind of its scaling by no other name than `type`."""
    said, scaling = checkpoint.config, checkpoint.config.get("rope_scaling")
    if checkpoint.architecture != "Phi3ForCausalLM" or not scaling:
        return said
    rest = {key: value for key, value in scaling.items() if key != "rope_type"}
    return {**said, "rope_scaling": {"type": scaling["rope_type"], **rest}}


def _check_names(checkpoint: Checkpoint, weights: dict[str, Any]) -> None:
    missing, strange = (
        sorted(weights.keys() - checkpoint.tensors),
        sorted(checkpoint.tensors.keys() - weights),
    )
    if missing or strange:
        raise ModelError(
            f"{checkpoint.folder}: its tensors are not those of {checkpoint.architecture}: "
            f"missing {', '.join(missing[:3]) or 'none'}; unknown {', '.join(strange[:3]) or 'none'}",
            remedy="Use the config.json that was saved with these weights.",
        )


def _fill(name: str, weight: Any, entry: TensorEntry) -> None:
    if tuple(weight.shape) != entry.shape:
        raise ModelError(f"{entry.file}: expected {name} to be {list(weight.shape)}, got {list(entry.shape)}")
    step = max(1, CHUNK_BYTES * entry.shape[0] // entry.nbytes)
    with torch.no_grad():
        for start in range(0, entry.shape[0], step):
            stop = min(start + step, entry.shape[0])
            rows = read_rows(entry, start, stop)
            if not np.isfinite(rows).all():
                raise ModelError(
                    f"{entry.file}: {name} holds weights that are NaN or infinite",
                    remedy="Start from an earlier checkpoint: the training diverged.",
                )
            weight[start:stop] = torch.tensor(rows)

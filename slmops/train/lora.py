"""Low-rank adaptation: what a person says of it, and a model that learns nothing else.

Knows peft and the names of a model's layers; nothing of data and of files.

Laws: the same words, model and seed give the same adapter, which at first changes nothing; what the
words name and the model does not have is an error, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import peft
import torch
from transformers.pytorch_utils import Conv1D

from slmops.build.classifier import is_classifier
from slmops.build.sketch import Sketch
from slmops.errors import TrainingError, UsageError
from slmops.train.adapter import Adapter, Origin, assembled

ATTENTION: Final = "attention"
ALL: Final = "all"
LARGEST = 1024
"""Rank beyond which nobody means low rank."""
_SAY = "Say it as --lora r=8, or --lora r=8,alpha=16,targets=attention (or all, or q_proj+v_proj)."


@dataclass(frozen=True)
class Lora:
    """How a model is adapted."""

    rank: int
    alpha: float
    """What is learned is added times alpha / rank."""
    targets: tuple[str, ...] = (ATTENTION,)
    """`attention`, `all`, or the last parts of the names of layers."""


def parse_lora(said: str) -> Lora:
    """Return what `r=8[,alpha=16][,targets=attention|all|NAME+NAME]` means; alpha is twice r by default."""
    words: dict[str, str] = {}
    for part in said.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or key not in ("r", "alpha", "targets") or key in words:
            raise UsageError(f"--lora: expected r, alpha and targets, each once, got {part!r}", remedy=_SAY)
        words[key] = value
    rank = int(_positive("r", words.get("r", ""), whole=True))
    if rank > LARGEST:
        raise UsageError(f"--lora: expected r up to {LARGEST}, got {rank}", remedy=_SAY)
    alpha = _positive("alpha", words["alpha"]) if "alpha" in words else 2.0 * rank
    targets = tuple(sorted({name.strip() for name in words.get("targets", ATTENTION).split("+")}))
    if "" in targets or (len(targets) > 1 and {ATTENTION, ALL} & {*targets}):
        raise UsageError(
            f"--lora: expected targets attention, all, or names joined by +, got {words['targets']!r}",
            remedy=_SAY,
        )
    return Lora(rank, alpha, targets)


def with_lora(model: Any, lora: Lora, base: Sketch, seed: int) -> Any:
    """Return `model`, a transformers model, wrapped by peft: what is learned is the adapter alone.

    A classifier's head is learned whole. Raises TrainingError for targets that the model does not have,
    or that are too small for the rank.
    """
    layers = _layers(model)
    targets = _targets(lora, layers, tied=base.tied)
    chosen = {name: layer for name, layer in layers.items() if any(_is_at(name, end) for end in targets)}
    _check_rank(lora.rank, chosen)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in chosen.values()),
        task_type="SEQ_CLS" if is_classifier(base.config) else "CAUSAL_LM",
        modules_to_save=_head(model) if is_classifier(base.config) else None,
    )
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config)


def taken(wrapped: Any, origin: Origin) -> Adapter:
    """Return the adapter of a model that `with_lora` wrapped; raise TrainingError where it is no number."""
    state = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    tensors = {
        name: np.ascontiguousarray(numbers.detach().float().cpu().numpy()) for name, numbers in state.items()
    }
    said = wrapped.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in said.items()}
    config |= {
        "peft_type": "LORA",
        "base_model_name_or_path": origin.base,
        "inference_mode": True,
    }
    return assembled(config, tensors, origin, "the trained adapter")


def with_adapter(model: Any, adapter: Adapter) -> Any:
    """Return `model`, the base of `adapter`, wrapped so that it answers with it; it learns nothing."""
    try:
        config = peft.LoraConfig(
            **{**adapter.config, "base_model_name_or_path": None, "inference_mode": True}
        )
    except TypeError as error:
        raise TrainingError(
            f"the adapter's config says what peft {peft.__version__} does not know: {error}",
            remedy="Install the peft that wrote it, or a newer one.",
        ) from error
    wrapped = peft.get_peft_model(model, config)
    state = {name: torch.from_numpy(numbers) for name, numbers in adapter.tensors.items()}
    found = peft.set_peft_model_state_dict(wrapped, state)
    if found.unexpected_keys:
        raise TrainingError(
            f"the adapter has {found.unexpected_keys[0]}, which the model does not have",
            remedy="Give the model that the adapter was trained on.",
        )
    return wrapped.eval()


def _positive(key: str, said: str, *, whole: bool = False) -> float:
    try:
        value = int(said) if whole else float(said)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        kind = "a whole number above 0" if whole else "a number above 0"
        raise UsageError(f"--lora: expected {key} to be {kind}, got {said!r}", remedy=_SAY)
    return value


def _layers(model: Any) -> dict[str, Any]:
    """Return every layer that is a product with a matrix, by name."""
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)
    }


def _targets(lora: Lora, layers: dict[str, Any], *, tied: bool) -> list[str]:
    """Return the ends of the names that peft is to look for."""
    ends = {name: _inside(name) for name in layers if _inside(name)}
    if lora.targets == (ALL,):
        return sorted(set(ends.values()))
    if lora.targets == (ATTENTION,):
        found = {end for end in ends.values() if "attn" in end or "attention" in end}
        if not found:
            raise _unknown(ATTENTION, ends)
        return sorted(found)
    for wanted in lora.targets:
        if not any(_is_at(name, wanted) for name in layers):
            raise _unknown(wanted, ends)
        if tied and wanted == "lm_head":
            raise TrainingError(
                "the head is the embedding; an adapter of one would change both",
                remedy="Leave lm_head out of targets.",
            )
    return list(lora.targets)


def _inside(name: str) -> str:
    """Return what a layer is called inside its block; nothing for one outside the numbered blocks."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[numbers[-1] + 1 :]) if numbers else ""


def _is_at(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _unknown(wanted: str, ends: dict[str, str]) -> TrainingError:
    return TrainingError(
        f"--lora: the model has no layer {wanted!r}; its blocks have {', '.join(sorted(set(ends.values())))}",
        remedy="Name some of these, joined by +, or say targets=all.",
    )


def _check_rank(rank: int, chosen: dict[str, Any]) -> None:
    for name, layer in chosen.items():
        smaller = min(layer.weight.shape)
        if rank >= smaller:
            raise TrainingError(
                f"--lora: r={rank} is no low rank for {name}, a matrix of {list(layer.weight.shape)}",
                remedy=f"Ask for less than {smaller}, or train the whole model (without --lora).",
            )


def _head(model: Any) -> list[str]:
    """Return the modules of a classifier that stand on its encoder."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]

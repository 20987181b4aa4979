"""A LoRA adapter's folder as it comes: the model it was trained for, and where its matrices lie.

peft's adapter_config.json and adapter_model.safetensors say what a model learned; adapter.gguf says the
same to llama.cpp, and adapter.json of which model. Numbers stay on disk until the adapter is merged.

Law: an adapter is put on the very model that it was trained for and on no other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slmops import digest as digests
from slmops.build.checkpoint import Checkpoint
from slmops.build.read_tensors import TensorEntry, read_json, tensors_of
from slmops.errors import IntegrityError, ModelError

CONFIG, WEIGHTS, ORIGIN, GGUF = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter.json",
    "adapter.gguf",
)
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_BEYOND = ("use_dora", "alpha_pattern", "modules_to_save", "lora_bias")
"""What peft can add to LoRA, and llama.cpp does not read."""
_AGAIN = "Train it again with `slmops finetune`, or merge it (`slmops finetune --merge`) and quantize that."


@dataclass(frozen=True)
class Pair:
    """What one matrix learned: B times A, as it is stored."""

    a: TensorEntry
    """Shape (rank, inputs)."""
    b: TensorEntry
    """Shape (outputs, rank)."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter."""

    folder: Path
    base: str
    """Name of the model it was trained for."""
    base_digest: str
    pairs: dict[str, Pair]
    """By the name of the weight that each is added to."""
    alpha: float
    by_root: bool
    """Scaled by the root of the rank (rsLoRA), not by the rank."""
    turned: bool
    """The model stores its matrices the other way round, inputs first, as GPT-2 does."""

    @property
    def gguf(self) -> Path:
        """Return the file that llama.cpp reads."""
        return self.folder / GGUF

    def scale(self, rank: int) -> float:
        """Return by what B times A is multiplied."""
        return self.alpha / (math.sqrt(rank) if self.by_root else rank)


@dataclass(frozen=True, eq=False)
class Adapted(Checkpoint):
    """A checkpoint and an adapter that its weights are merged with when they are loaded."""

    adapter: Adapter

    def digest_by(self, of_file: Callable[[Path], str]) -> str:
        """Return one sha256 for the model and what was added to it."""
        own = (of_file(self.adapter.folder / name) for name in (CONFIG, WEIGHTS))
        return digests.of_pieces(f"{said}\n".encode() for said in (super().digest_by(of_file), *own))


def open_adapter(folder: Path) -> Adapter:
    """Read the adapter in `folder`; raise ModelError when it is not whole, or more than LoRA."""
    missing = [name for name in (CONFIG, WEIGHTS, ORIGIN, GGUF) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} is no adapter that llama.cpp could serve: it has no {', '.join(missing)}",
            remedy="Give the folder that `slmops finetune --lora` wrote; where that says that there "
            f"can be no {GGUF}, merge it (--merge) and quantize what comes out.",
        )
    config, origin = read_json(folder / CONFIG), read_json(folder / ORIGIN)
    beyond = [key for key in _BEYOND if config.get(key)]
    if config.get("peft_type") != "LORA" or beyond:
        found = ", ".join(beyond) or config.get("peft_type")
        raise ModelError(f"{folder / CONFIG}: expected plain LoRA, got {found}", remedy=_AGAIN)
    return Adapter(
        folder,
        *_base(folder / ORIGIN, origin),
        _pairs(folder / WEIGHTS),
        _alpha(folder / CONFIG, config),
        bool(config.get("use_rslora")),
        bool(config.get("fan_in_fan_out")),
    )


def put_on(checkpoint: Checkpoint, adapter: Adapter) -> Adapted:
    """Return the model merged with its adapter; raise ModelError when it was trained for another."""
    for name, pair in adapter.pairs.items():
        (rank, inputs), (outputs, _) = pair.a.shape, pair.b.shape
        wanted = (inputs, outputs) if adapter.turned else (outputs, inputs)
        found = checkpoint.tensors.get(name)
        if found is None or found.shape != wanted or pair.b.shape[1] != rank:
            raise _not_its_base(
                adapter, f"{name} is {list(found.shape) if found else 'not there'}, not {list(wanted)}"
            )
    if checkpoint.digest != adapter.base_digest:
        raise _not_its_base(
            adapter,
            f"that one's digest is {digests.short(adapter.base_digest)}, this one's "
            f"{digests.short(checkpoint.digest)}",
        )
    said = {each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)}
    return Adapted(**said, adapter=adapter)


def _not_its_base(adapter: Adapter, why: str) -> ModelError:
    return ModelError(
        f"{adapter.folder} was trained for another model, {adapter.base}: {why}",
        remedy=f"Give the model it was trained for, {adapter.base}, as it was then; to `slmops adapt`, the "
        "release of that model: slmops release list.",
    )


def _base(file: Path, said: dict[str, Any]) -> tuple[str, str]:
    try:
        return str(said["base"]), digests.parse(str(said["base_digest"]))
    except (KeyError, IntegrityError) as error:
        raise ModelError(
            f"{file}: expected base and base_digest, a sha256, got {', '.join(sorted(said)) or 'nothing'}",
            remedy=_AGAIN,
        ) from error


def _alpha(file: Path, said: dict[str, Any]) -> float:
    alpha = said.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(f"{file}: expected a number as lora_alpha, got {alpha!r}", remedy=_AGAIN)
    return float(alpha)


def _pairs(file: Path) -> dict[str, Pair]:
    """Return what each weight learned; raise ModelError for anything that is half of a pair, or more."""
    sides: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors_of(file).items():
        found = _NAME.fullmatch(name)
        if found is None or len(entry.shape) != 2:  # noqa: PLR2004 - a matrix
            raise ModelError(f"{file}: {name} is no half of a pair lora_A and lora_B", remedy=_AGAIN)
        sides.setdefault(f"{found['module']}.weight", {})[found["side"]] = entry
    halves = [name for name, pair in sides.items() if len(pair) == 1]
    if halves or not sides:
        raise ModelError(
            f"{file}: expected pairs lora_A and lora_B, got "
            f"{f'half of one for {halves[0]}' if halves else 'none'}",
            remedy=_AGAIN,
        )
    return {name: Pair(pair["A"], pair["B"]) for name, pair in sides.items()}

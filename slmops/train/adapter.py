"""A LoRA adapter as numbers: for each matrix that it changes two thin factors, and what it was made from.

Pure: the values between peft's folder, GGUF's file and a mean. Knows nothing of files and of torch.

Laws: what an adapter adds to a matrix is scaling x B x A, and nothing else; an adapter that does more
(DoRA, biases, ranks that differ) is refused, never read as if it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmops.errors import TrainingError

Numbers = NDArray[np.float32]
PREFIX = "base_model.model."
"""What peft puts before the names of a model's modules."""
_A, _B = ".lora_A.weight", ".lora_B.weight"
_SILENT: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none",),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
}
"""What an adapter_config.json must say, or not say at all, to be plain LoRA."""


@dataclass(frozen=True, eq=False)
class Factors:
    """What is added to one matrix of [outputs, inputs], before scaling: b @ a."""

    a: Numbers
    """[rank, inputs]."""
    b: Numbers
    """[outputs, rank]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Origin:
    """What an adapter was made from."""

    base: str
    """The model as a person called it."""
    base_digest: str
    """`Checkpoint.digest` of that model."""
    samples: int
    """How many samples it was trained on: its weight in a mean."""
    seed: int | None = None
    """None: it is a mean of others."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter."""

    config: Mapping[str, Any]
    """What peft's adapter_config.json says."""
    factors: Mapping[str, Factors]
    """By the name of the module that they change: model.layers.0.self_attn.q_proj."""
    whole: Mapping[str, Numbers]
    """Weights that were trained whole, such as a classifier's head, by name."""
    origin: Origin

    @property
    def rank(self) -> int:
        """Return how many rows each A has."""
        return int(self.config["r"])

    @property
    def scaling(self) -> float:
        """Return by what b @ a is multiplied."""
        root = self.rank**0.5 if self.config.get("use_rslora") else self.rank
        return float(self.config["lora_alpha"] / root)

    @property
    def tensors(self) -> dict[str, Numbers]:
        """Return every tensor by peft's name."""
        named = {f"{PREFIX}{name}{_A}": one.a for name, one in self.factors.items()}
        named |= {f"{PREFIX}{name}{_B}": one.b for name, one in self.factors.items()}
        return named | {PREFIX + name: numbers for name, numbers in self.whole.items()}

    @property
    def parameters(self) -> int:
        """Return how many numbers it has."""
        return sum(numbers.size for numbers in self.tensors.values())


def assembled(
    config: Mapping[str, Any], tensors: Mapping[str, Numbers], origin: Origin, where: str
) -> Adapter:
    """Return the adapter of what peft wrote; raise TrainingError, naming `where`, for what is not LoRA."""
    _check_plain(config, where)
    plain = {name.removeprefix(PREFIX): numbers for name, numbers in tensors.items()}
    _check_numbers(plain, where)
    names = [name.removesuffix(_A) for name in plain if name.endswith(_A)]
    lone = [name for name in names if name + _B not in plain] + [
        name for name in plain if name.endswith(_B) and name.removesuffix(_B) not in names
    ]
    if lone or not names:
        raise TrainingError(
            f"{where}: expected an A and a B for each matrix, got "
            + (f"one alone for {lone[0]}" if lone else "none"),
            remedy="Copy the adapter again, or train it again.",
        )
    factors = {name: Factors(plain[name + _A], plain[name + _B]) for name in sorted(names)}
    _check_ranks(int(config["r"]), factors, where)
    whole = {name: numbers for name, numbers in plain.items() if not name.endswith((_A, _B))}
    return Adapter(config, factors, whole, origin)


def _check_plain(config: Mapping[str, Any], where: str) -> None:
    if config.get("peft_type") != "LORA" or not all(
        isinstance(config.get(name), int | float) and config[name] > 0 for name in ("r", "lora_alpha")
    ):
        raise TrainingError(
            f"{where}: expected a LoRA adapter with r and lora_alpha, got {config.get('peft_type')!r} with "
            f"r {config.get('r')!r} and lora_alpha {config.get('lora_alpha')!r}",
            remedy="Train one with `slmops finetune MODEL --lora r=8`.",
        )
    for name, meant in _SILENT.items():
        if name in config and config[name] not in meant:
            raise TrainingError(
                f"{where}: {name} is {config[name]!r}: expected an adapter that adds B x A and no more",
                remedy="Train it again without that.",
            )


def _check_numbers(tensors: Mapping[str, Numbers], where: str) -> None:
    for name, numbers in tensors.items():
        if not np.isfinite(numbers).all():
            raise TrainingError(
                f"{where}: {name} holds numbers that are NaN or infinite",
                remedy="Train it again with a smaller --rate.",
            )


def _check_ranks(rank: int, factors: Mapping[str, Factors], where: str) -> None:
    for name, one in factors.items():
        if one.a.ndim != 2 or one.b.ndim != 2 or not one.a.shape[0] == one.b.shape[1] == rank:  # noqa: PLR2004
            raise TrainingError(
                f"{where}: {name}: expected A of [{rank}, inputs] and B of [outputs, {rank}], "
                f"got {list(one.a.shape)} and {list(one.b.shape)}",
                remedy="Use the adapter_config.json that was saved with this adapter_model.safetensors.",
            )

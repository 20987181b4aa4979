"""Phi-3, Phi-3.5 and Phi-4-mini: fused projections, heads rotated in part, two sets of rope factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slmops.build.family_terms import (
    Config,
    Family,
    Sizes,
    Weight,
    check_silu,
    number,
    refusal,
    rotary_keys,
    trained_context,
)
from slmops.build.rope import check_kind, scaling_of
from slmops.build.scheme import Value
from slmops.errors import ModelError

PLACES = 256
"""llama.cpp makes room for tokens in steps of so many, and by that room chooses the factors."""


class Phi3(Family):
    """q, k and v in one matrix, gate and up in another; llama.cpp takes both as they are."""

    def sizes(self, config: Config) -> Sizes:
        """Return the sizes; llama.cpp has no other width of a head than hidden_size / heads."""
        sizes = super().sizes(config)
        if sizes.queries != sizes.hidden:
            raise refusal(f"phi3 with head_dim {sizes.head_dim}", f"expects {sizes.hidden} / {sizes.heads}")
        return sizes

    def block(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return the four matrices and two norms of a layer."""
        del config
        return {
            "input_layernorm.weight": Weight((sizes.hidden,)),
            "self_attn.qkv_proj.weight": Weight((sizes.queries + 2 * sizes.keys, sizes.hidden)),
            "self_attn.o_proj.weight": Weight((sizes.hidden, sizes.queries)),
            "post_attention_layernorm.weight": Weight((sizes.hidden,)),
            "mlp.gate_up_proj.weight": Weight((2 * sizes.inner, sizes.hidden)),
            "mlp.down_proj.weight": Weight((sizes.hidden, sizes.inner)),
        }

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the keys of partly rotated heads and of longrope."""
        check_silu(self, config)
        check_kind(self.arch, config, ["longrope"])
        return {
            **rotary_keys(config, sizes),
            "attention.sliding_window": config.get("sliding_window") or 0,
            "rope.dimension_count": _rotated(config, sizes),
            "rope.scaling.original_context_length": _first_context(config),
            **({"rope.scaling.attn_factor": _attention_factor(config)} if scaling_of(config) else {}),
        }

    def factors(self, config: Config, sizes: Sizes) -> dict[str, tuple[float, ...]]:
        """Return by what longrope divides each frequency in long and in short contexts."""
        said = scaling_of(config)
        if not said:
            return {}
        wanted = _rotated(config, sizes) // 2
        found = {name: _numbers(said.get(f"{name}_factor"), name, wanted) for name in ("long", "short")}
        return {f"rope_factors_{name}.weight": factors for name, factors in found.items()}

    def context(self, config: Config) -> int:
        """Return the trained context, bounded by a window and by where the long factors begin.

        llama.cpp attends to everything; and in a context that is larger than the first training's it
        takes the long factors for short texts too, which transformers does not.
        """
        bounds = [trained_context(config), config.get("sliding_window")]
        if scaling_of(config):
            bounds.append(_first_context(config) // PLACES * PLACES)
        return min(bound for bound in bounds if bound is not None)


def _rotated(config: Config, sizes: Sizes) -> int:
    rotated = int(sizes.head_dim * config["partial_rotary_factor"])
    if rotated % 2:
        raise refusal(f"phi3 with {rotated} rotated numbers in a head", "rotates pairs")
    return rotated


def _first_context(config: Config) -> int:
    """Return the context of the training before longrope."""
    first = int(number(config, "original_max_position_embeddings", "config.json"))
    if scaling_of(config) and first < PLACES:
        raise refusal(f"phi3 with longrope from {first} tokens on", f"has room for at least {PLACES}")
    return first


def _attention_factor(config: Config) -> float:
    said = scaling_of(config)
    strange = sorted(said.keys() - {"rope_type", "short_factor", "long_factor"})
    if strange:
        raise refusal(
            f"phi3 with {', '.join(strange)} in its rope scaling", "computes them from the contexts"
        )
    first = _first_context(config)
    scale = trained_context(config) / first
    return math.sqrt(1 + math.log(scale) / math.log(first)) if scale > 1 else 1.0


def _numbers(said: Sequence[float] | None, name: str, wanted: int) -> tuple[float, ...]:
    if said is None or len(said) != wanted:
        raise ModelError(
            f"longrope with {0 if said is None else len(said)} numbers in {name}_factor, expected {wanted}",
            remedy="Use the config.json that was saved with these weights.",
        )
    return tuple(map(float, said))


PHI3 = Phi3(
    "phi3",
    {
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 4096,
    },
)

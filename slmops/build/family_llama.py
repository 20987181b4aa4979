"""Llama and the families drawn after it: Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slmops.build.family_terms import (
    Config,
    Family,
    Sizes,
    Weight,
    check_silu,
    gated,
    refusal,
    rotary_keys,
    trained_context,
)
from slmops.build.rope import check_kind, llama3_factors, scaling_keys
from slmops.build.scheme import Value

_KINDS = ("linear", "yarn", "dynamic")
"""Scaling of kind dynamic changes nothing inside the trained context."""


@dataclass(frozen=True)
class LlamaLike(Family):
    """Gated feed-forward, RMS norms before attention and feed-forward, rotary positions."""

    rotates_pairs: bool = False
    """llama.cpp rotates neighbours of a head, transformers its two halves: rows of q and k move."""
    qkv_bias: bool = False
    head_norms: bool = False
    optional_bias: bool = False
    """`attention_bias` and `mlp_bias` of the config are understood."""
    rope_factors: bool = False
    """`llama3` rope scaling is understood."""
    free_head_dim: bool = True
    """head_dim may differ from hidden_size / num_attention_heads."""
    slides: bool = False
    """A sliding window counts without `use_sliding_window`."""

    def sizes(self, config: Config) -> Sizes:
        """Return the sizes, the width of a head checked where llama.cpp does not read it."""
        sizes = super().sizes(config)
        if not self.free_head_dim and sizes.queries != sizes.hidden:
            raise refusal(
                f"{self.arch} with head_dim {sizes.head_dim}", f"expects {sizes.hidden} / {sizes.heads}"
            )
        return sizes

    def block(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return norms, matrices and the biases that the family or the config adds."""
        weights = gated(sizes)
        biased = {
            "self_attn.q": self.qkv_bias,
            "self_attn.k": self.qkv_bias,
            "self_attn.v": self.qkv_bias,
            "self_attn.": self.optional_bias and config.get("attention_bias"),
            "mlp.": self.optional_bias and config.get("mlp_bias"),
        }
        for name, weight in gated(sizes).items():
            if any(said and name.startswith(part) for part, said in biased.items()):
                weights[name.replace("weight", "bias")] = Weight(weight.shape[:1])
        if self.rotates_pairs:
            turned = [name for name in weights if name.startswith(("self_attn.q", "self_attn.k"))]
            weights |= {name: replace(weights[name], rotated_heads=sizes.head_dim) for name in turned}
        norms = {name: Weight((sizes.hidden,)) for name in ("input_layernorm", "post_attention_layernorm")}
        if self.head_norms:
            norms |= {name: Weight((sizes.head_dim,)) for name in ("self_attn.q_norm", "self_attn.k_norm")}
        return {**{f"{name}.weight": weight for name, weight in norms.items()}, **weights}

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the keys of rotary attention, refusing other activations, partial heads, other scalings."""
        check_silu(self, config)
        if config.get("partial_rotary_factor", 1.0) != 1.0:
            raise refusal(f"{self.arch} with partial_rotary_factor", "rotates whole heads")
        check_kind(self.arch, config, (*_KINDS, "llama3") if self.rope_factors else _KINDS)
        return {**rotary_keys(config, sizes), **scaling_keys(config)}

    def factors(self, config: Config, sizes: Sizes) -> dict[str, tuple[float, ...]]:
        """Return the factors of `llama3` scaling, where the config asks for it."""
        factors = llama3_factors(config, sizes.head_dim)
        return {"rope_freqs.weight": factors} if factors else {}

    def context(self, config: Config) -> int:
        """Return the trained context; a window bounds it, because llama.cpp attends to everything."""
        longest = trained_context(config)
        slides = config.get("use_sliding_window", self.slides)
        return min(longest, config.get("sliding_window") or longest) if slides else longest


_SILENT = {"rms_norm_eps": 1e-6, "rope_theta": 1e4}
LLAMA = LlamaLike("llama", _SILENT, rotates_pairs=True, optional_bias=True, rope_factors=True)
MISTRAL = replace(LLAMA, slides=True)
QWEN2 = LlamaLike("qwen2", _SILENT, qkv_bias=True, free_head_dim=False)
QWEN3 = LlamaLike("qwen3", {**_SILENT, "head_dim": 128}, head_norms=True)

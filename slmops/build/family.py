"""The model families that can be written as GGUF, and what each is called there.

Pure: from a config and tensor shapes to GGUF metadata and a list of tensors; knows nothing of files,
types or tokens. Says what llama.cpp's own converter says for the same model.

Laws: every tensor of the checkpoint is placed exactly once, or the model is refused; a config that
the runtime would compute differently from transformers is refused, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import MODEL_ARCH, get_tensor_name_map

from slmops.build.scheme import Build, Value
from slmops.errors import ModelError

Shape = tuple[int, ...]
WAY_OUT = (
    "Build it with --converter PATH (a llama.cpp checkout, or an unpacked llama-cpp-python source archive: "
    "pip download --no-binary :all: --no-deps llama-cpp-python), or build ONNX with --format onnx."
)


@dataclass(frozen=True)
class Family:
    """One row of the table below."""

    arch: str
    """The prefix of its GGUF keys."""
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
    head_dim: int | None = None
    """What transformers takes where the config is silent; None: hidden_size / num_attention_heads."""


_LLAMA = Family("llama", rotates_pairs=True, optional_bias=True, rope_factors=True)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias=True, free_head_dim=False),
    "Qwen3ForCausalLM": Family("qwen3", head_norms=True, head_dim=128),
}
_ARCHES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the GGUF file and where its numbers come from."""

    name: str
    shape: Shape
    """Rows first, as transformers has it."""
    source: str = ""
    """Its name in the checkpoint; empty when `values` are the numbers."""
    rotated_heads: int = 0
    """Rows of one head when its two halves are to be interleaved; 0: as they are."""
    values: tuple[float, ...] = ()


def family_of(architecture: str) -> Family:
    """Return the family; raise ModelError naming the supported ones and the way out."""
    if architecture not in FAMILIES:
        raise ModelError(
            f"no GGUF conversion for {architecture}; supported: {', '.join(FAMILIES)}", remedy=WAY_OUT
        )
    return FAMILIES[architecture]


def build_of(architecture: str, config: Mapping[str, Any]) -> Build:
    """Return what the choice of types asks of the model."""
    sizes = _sizes(family_of(architecture), config)
    return Build(layers=sizes.layers, heads=sizes.heads, kv_heads=sizes.kv_heads)


def layout(
    architecture: str, config: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> tuple[GgufTensor, ...]:
    """Return the tensors of the GGUF file in order; raise ModelError unless `shapes` are this model's."""
    family = family_of(architecture)
    sizes = _sizes(family, config)
    expected = _expected(family, sizes, config)
    _check_shapes(architecture, expected, shapes)
    names = get_tensor_name_map(_ARCHES[family.arch], sizes.layers)
    rotated = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias") if family.rotates_pairs else ()
    tensors = [
        GgufTensor(
            name=str(names.get_name(name, try_suffixes=(".weight", ".bias"))),
            shape=shape,
            source=name,
            rotated_heads=sizes.head_dim if name.endswith(rotated) else 0,
        )
        for name, shape in expected.items()
    ]
    factors = _rope_factors(sizes, config)
    return (
        (*tensors, GgufTensor("rope_freqs.weight", (len(factors),), values=factors))
        if factors
        else (*tensors,)
    )


def metadata(architecture: str, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the model's GGUF keys, tokenizer aside; raise ModelError for what llama.cpp does not compute."""
    family = family_of(architecture)
    sizes = _sizes(family, config)
    _check_formula(family, config)
    said: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": context_of(architecture, config),
        "embedding_length": sizes.hidden,
        "feed_forward_length": sizes.inner,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.dimension_count": sizes.head_dim,
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        "vocab_size": sizes.vocab,
        **_rope_scaling(family, config),
    }
    return {f"{family.arch}.{key}": value for key, value in said.items()}


@dataclass(frozen=True)
class _Sizes:
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


def _sizes(family: Family, config: Mapping[str, Any]) -> _Sizes:
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    silent = [name for name in names if not isinstance(config.get(name), int)]
    if silent:
        raise ModelError(
            f"config.json does not say {', '.join(silent)}",
            remedy="Use the config.json saved with the weights.",
        )
    layers, hidden, inner, heads, vocab = (int(config[name]) for name in names)
    head_dim = config.get("head_dim") or family.head_dim or hidden // heads
    if not family.free_head_dim and head_dim * heads != hidden:
        raise ModelError(
            f"{family.arch} with head_dim {head_dim}: llama.cpp expects {hidden} / {heads}", remedy=WAY_OUT
        )
    return _Sizes(layers, hidden, inner, heads, config.get("num_key_value_heads") or heads, head_dim, vocab)


def _expected(family: Family, sizes: _Sizes, config: Mapping[str, Any]) -> dict[str, Shape]:
    """Return name and shape of every tensor such a model has, in the order they are written."""
    embedding = (sizes.vocab, sizes.hidden)
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": embedding}
    for layer in range(sizes.layers):
        block = _expected_block(family, sizes, config)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (sizes.hidden,)
    return shapes if config.get("tie_word_embeddings") else {**shapes, "lm_head.weight": embedding}


def _expected_block(family: Family, sizes: _Sizes, config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, inner = sizes.hidden, sizes.inner
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    attention = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
    }
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    with_bias = {"q_proj", "k_proj", "v_proj"} if family.qkv_bias else set()
    if family.optional_bias and config.get("attention_bias"):
        with_bias |= set(attention)
    if family.optional_bias and config.get("mlp_bias"):
        with_bias |= set(mlp)
    shapes: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    for prefix, matrices in (("self_attn", attention), ("mlp", mlp)):
        for name, shape in matrices.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            if name in with_bias:
                shapes[f"{prefix}.{name}.bias"] = shape[:1]
    if family.head_norms:
        shapes |= {"self_attn.q_norm.weight": (sizes.head_dim,), "self_attn.k_norm.weight": (sizes.head_dim,)}
    return shapes


def _check_shapes(architecture: str, expected: Mapping[str, Shape], shapes: Mapping[str, Shape]) -> None:
    missing = [name for name in expected if name not in shapes]
    strange = [name for name in shapes if name not in expected]
    if missing or strange:
        raise ModelError(
            f"not a plain {architecture}: "
            + "; ".join(
                f"{word} {_few(names)}"
                for word, names in (("missing", missing), ("unknown", strange))
                if names
            ),
            remedy="Check that config.json belongs to these weights. " + WAY_OUT,
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ModelError(
                f"{name} is {list(shapes[name])}, but by config.json it must be {list(shape)}",
                remedy="Use the config.json that was saved with these weights.",
            )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004


def _check_formula(family: Family, config: Mapping[str, Any]) -> None:
    """Refuse what the config may ask and llama.cpp's graph of this family does not compute."""
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(
            f"{family.arch} with hidden_act {activation!r}: llama.cpp computes silu", remedy=WAY_OUT
        )
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(
            f"{family.arch} with partial_rotary_factor: llama.cpp rotates whole heads", remedy=WAY_OUT
        )


def context_of(architecture: str, config: Mapping[str, Any]) -> int:
    """Return the context in tokens; a sliding window bounds it, because llama.cpp attends to everything."""
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int):
        raise ModelError(
            "config.json does not say max_position_embeddings",
            remedy="Add it: the context the model was trained for.",
        )
    slides = bool(config.get("use_sliding_window", architecture == "MistralForCausalLM"))
    window = config.get("sliding_window") if slides else None
    return min(longest, window or longest)


def _rope_scaling(family: Family, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the rope.scaling keys. Scaling of kind dynamic changes nothing inside the trained context."""
    said = config.get("rope_scaling") or {}
    kind = said.get("rope_type", "default")
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": _scaling(said, "factor")}
    if kind == "yarn":
        return _yarn(said, int(config["max_position_embeddings"]))
    if kind in ("default", "dynamic") or (kind == "llama3" and family.rope_factors):
        return {}
    raise ModelError(
        f"{family.arch} with rope scaling {kind!r}: supported are linear, yarn, llama3", remedy=WAY_OUT
    )


def _yarn(said: Mapping[str, Any], context: int) -> dict[str, Value]:
    optional = {
        "extrapolation_factor": "rope.scaling.yarn_ext_factor",
        "attention_factor": "rope.scaling.yarn_attn_factor",
        "beta_fast": "rope.scaling.yarn_beta_fast",
        "beta_slow": "rope.scaling.yarn_beta_slow",
    }
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": _scaling(said, "factor"),
        "rope.scaling.original_context_length": int(said.get("original_max_position_embeddings") or context),
        **{key: float(said[name]) for name, key in optional.items() if said.get(name) is not None},
    }


def _rope_factors(sizes: _Sizes, config: Mapping[str, Any]) -> tuple[float, ...]:
    """Return by what `llama3` scaling divides each frequency of a head; nothing for other scalings."""
    said = config.get("rope_scaling") or {}
    if said.get("rope_type") != "llama3":
        return ()
    low, high = _scaling(said, "low_freq_factor"), _scaling(said, "high_freq_factor")
    trained, factor = _scaling(said, "original_max_position_embeddings"), _scaling(said, "factor")
    base = float(config.get("rope_theta", 10000.0))
    lengths = [2 * math.pi * base ** (2 * i / sizes.head_dim) for i in range(sizes.head_dim // 2)]
    return tuple(_llama3_factor(trained / length, low, high, factor) for length in lengths)


def _scaling(said: Mapping[str, Any], name: str) -> float:
    if not isinstance(said.get(name), int | float):
        raise ModelError(
            f"rope scaling {said.get('rope_type')!r} without a number under {name!r}",
            remedy="Use the config.json that was saved with these weights.",
        )
    return float(said[name])


def _llama3_factor(turns: float, low: float, high: float, factor: float) -> float:
    """Return 1 for a wave that turns often in the trained context, `factor` for a slow one, else a blend."""
    if turns > high:
        return 1.0
    if turns < low:
        return factor
    smooth = (turns - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)

"""How a config stretches rotary positions, in GGUF's words.

Pure: `rope_scaling` as `checkpoint.normalized` leaves it -> keys and factors. Which kinds a family
bears it says itself; another is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from slmops.build.family_terms import Config, number, refusal
from slmops.build.scheme import Value

_f32 = np.float32


def scaling_of(config: Config) -> Mapping[str, Any]:
    """Return what the config says of scaling; nothing where it scales nothing."""
    return config.get("rope_scaling") or {}


def check_kind(arch: str, config: Config, kinds: Collection[str]) -> None:
    """Refuse a kind of scaling that is not one of `kinds`."""
    kind = scaling_of(config).get("rope_type", "default")
    if kind != "default" and kind not in kinds:
        raise refusal(f"{arch} with rope scaling {kind!r}", f"computes {', '.join(kinds) or 'none'} there")


def scaling_keys(config: Config) -> dict[str, Value]:
    """Return the keys of linear or yarn scaling; none for other kinds."""
    said = scaling_of(config)
    kind = said.get("rope_type")
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": _scaling(said, "factor")}
    return _yarn(said, int(config["max_position_embeddings"])) if kind == "yarn" else {}


def llama3_factors(config: Config, head_dim: int) -> tuple[float, ...]:
    """Return by what `llama3` scaling divides each frequency of a head; nothing for other kinds.

    In float32 and with reciprocals, as torch divides: so the last bit is the converter's too.
    """
    said = scaling_of(config)
    if said.get("rope_type") != "llama3":
        return ()
    low, high = _scaling(said, "low_freq_factor"), _scaling(said, "high_freq_factor")
    trained, factor = _scaling(said, "original_max_position_embeddings"), _scaling(said, "factor")
    base = float(config["rope_theta"])
    powers = [_f32(base ** float(_f32(2 * i) / _f32(head_dim))) for i in range(head_dim // 2)]
    lengths = [_f32(1) / (_f32(1) / power) * _f32(2 * math.pi) for power in powers]
    return tuple(_llama3_factor(length, trained, low, high, factor) for length in lengths)


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


def _scaling(said: Mapping[str, Any], name: str) -> float:
    return number(said, name, f"rope scaling {said.get('rope_type')!r}")


def _llama3_factor(length: np.float32, trained: float, low: float, high: float, factor: float) -> float:
    """Return 1 for a wave that turns often in the trained context, `factor` for a slow one, else a blend."""
    if length < trained / high:
        return 1.0
    if length > trained / low:
        return factor
    smooth = (_f32(1) / length * _f32(trained) - _f32(low)) / _f32(high - low)
    return float(_f32(1) / ((_f32(1) - smooth) / _f32(factor) + smooth))

"""The terms in which a model family is described: its sizes, its weights, its formula.

Pure. A family is one subclass of `Family`: it says what a block holds and which GGUF keys it needs, and
overrides of the rest only what differs. Configs are in the words that `checkpoint.normalized` leaves.

Laws: what the config may ask and llama.cpp's graph of the family does not compute is refused; where a
config is silent, what transformers would take counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slmops.build.scheme import Value
from slmops.errors import ModelError

Config = Mapping[str, Any]
Shape = tuple[int, ...]
WAY_OUT = (
    "Build it with --converter PATH (a llama.cpp checkout, or an unpacked llama-cpp-python source archive: "
    "pip download --no-binary :all: --no-deps llama-cpp-python), or build ONNX with --format onnx."
)
_SAVED_WITH = "Use the config.json that was saved with these weights."
_SILU = ("silu", "swish")


@dataclass(frozen=True)
class Sizes:
    """The numbers of a config that shapes follow from."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def queries(self) -> int:
        """Return the width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Return the width of all key heads together; the value heads have the same."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Weight:
    """A tensor of a checkpoint, and what happens to its numbers on the way into a GGUF file."""

    shape: Shape
    """In the checkpoint, rows first."""
    rotated_heads: int = 0
    """Rows of one head when its two halves are to be interleaved; 0: as they are."""
    transposed: bool = False
    plus_one: bool = False
    """The checkpoint stores the distance from one."""


@dataclass(frozen=True)
class Family(ABC):
    """What must be known of a family to write it as GGUF."""

    arch: str
    """The prefix of its GGUF keys."""
    defaults: Config = field(default_factory=dict)
    """What transformers takes where the config is silent."""

    @property
    def embedding(self) -> str:
        """Return the name of the token embedding in a checkpoint."""
        return "model.embed_tokens.weight"

    def sizes(self, config: Config) -> Sizes:
        """Return the sizes; raise ModelError naming those that the config does not say."""
        names = (
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "vocab_size",
        )
        silent = [name for name in names if not isinstance(config.get(name), int)]
        if silent:
            raise ModelError(
                f"config.json does not say {', '.join(silent)}",
                remedy="Use the config.json saved with the weights.",
            )
        layers, hidden, inner, heads, vocab = (int(config[name]) for name in names)
        head_dim = config.get("head_dim") or hidden // heads
        return Sizes(
            layers, hidden, inner, heads, config.get("num_key_value_heads") or heads, head_dim, vocab
        )

    def weights(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return every tensor of a checkpoint by name, in the order they are written."""
        embedding = Weight((sizes.vocab, sizes.hidden))
        found = {self.embedding: embedding}
        block = self.block(config, sizes)
        for layer in range(sizes.layers):
            found |= {f"model.layers.{layer}.{name}": weight for name, weight in block.items()}
        found["model.norm.weight"] = Weight((sizes.hidden,))
        return found if config.get("tie_word_embeddings") else {**found, "lm_head.weight": embedding}

    @abstractmethod
    def block(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return the tensors of one layer, named inside it."""

    @abstractmethod
    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the GGUF keys that only some families have, without prefix; refuse other formulas."""

    def factors(self, config: Config, sizes: Sizes) -> dict[str, tuple[float, ...]]:
        """Return the tensors that a GGUF file has besides those of the checkpoint."""
        del config, sizes
        return {}

    def context(self, config: Config) -> int:
        """Return how many tokens llama.cpp and transformers read alike."""
        return trained_context(config)


def gated(sizes: Sizes) -> dict[str, Weight]:
    """Return the matrices of attention and of a gated feed-forward, each with its own projection."""
    queries, keys, inner = ((width, sizes.hidden) for width in (sizes.queries, sizes.keys, sizes.inner))
    return {
        "self_attn.q_proj.weight": Weight(queries),
        "self_attn.k_proj.weight": Weight(keys),
        "self_attn.v_proj.weight": Weight(keys),
        "self_attn.o_proj.weight": Weight(queries[::-1]),
        "mlp.gate_proj.weight": Weight(inner),
        "mlp.up_proj.weight": Weight(inner),
        "mlp.down_proj.weight": Weight(inner[::-1]),
    }


def rotary_keys(config: Config, sizes: Sizes) -> dict[str, Value]:
    """Return the keys of attention with rotary positions over whole heads and of RMS norms."""
    return {
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": sizes.head_dim,
        "rope.freq_base": float(config["rope_theta"]),
    }


def trained_context(config: Config) -> int:
    """Return the context the model was trained for."""
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int):
        raise ModelError(
            "config.json does not say max_position_embeddings",
            remedy="Add it: the context the model was trained for.",
        )
    return longest


def number(said: Config, name: str, where: str) -> float:
    """Return the number under `name`; raise ModelError, saying `where`, if there is none."""
    if not isinstance(said.get(name), int | float):
        raise ModelError(f"{where} without a number under {name!r}", remedy=_SAVED_WITH)
    return float(said[name])


def check_silu(family: Family, config: Config) -> None:
    """Refuse another activation than the one of all gated families but Gemma."""
    activation = config.get("hidden_act", "silu")
    if activation not in _SILU:
        raise refusal(f"{family.arch} with hidden_act {activation!r}", "computes silu")


def refusal(what: str, instead: str) -> ModelError:
    """Return the error for a config that llama.cpp would compute differently."""
    return ModelError(f"{what}: llama.cpp {instead}", remedy=WAY_OUT)

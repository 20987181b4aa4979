"""Gemma 2 and Gemma 3 (text): norms around everything, some layers that see a window alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slmops.build.family_terms import Config, Family, Sizes, Weight, gated, refusal, rotary_keys
from slmops.build.rope import check_kind, scaling_keys
from slmops.build.scheme import Value

SLIDING, FULL = "sliding_attention", "full_attention"
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Gemma(Family):
    """A norm's weights are stored as their distance from one; the embedding is scaled; heads are free."""

    head_norms: bool = False
    pattern: int = 0
    """In llama.cpp every so-manieth layer sees everything, the others a window."""
    largest: int = 0
    """Layers of the one model whose queries llama.cpp scales by hidden_size / heads instead of head_dim."""

    def weights(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return every tensor, the norms raised by one."""
        return {
            name: replace(weight, plus_one=name.endswith("norm.weight"))
            for name, weight in super().weights(config, sizes).items()
        }

    def block(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return four norms, those of the heads where the family has them, and the matrices."""
        del config
        norms = {name: Weight((sizes.hidden,)) for name in _NORMS}
        if self.head_norms:
            norms |= {name: Weight((sizes.head_dim,)) for name in ("self_attn.q_norm", "self_attn.k_norm")}
        return {**{f"{name}.weight": weight for name, weight in norms.items()}, **gated(sizes)}

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the keys of attention in windows, refusing what no Gemma that llama.cpp knows does."""
        self._check(config, sizes)
        window = self._windows(config, sizes)
        return {**rotary_keys(config, sizes), **window, **self._caps(config)}

    def _check(self, config: Config, sizes: Sizes) -> None:
        activation = config["hidden_activation"]
        if activation != "gelu_pytorch_tanh":
            raise refusal(f"{self.arch} with hidden_activation {activation!r}", "computes gelu_pytorch_tanh")
        for asked in ("attention_bias", "use_bidirectional_attention"):
            if config.get(asked):
                raise refusal(f"{self.arch} with {asked}", "computes none")
        width = sizes.hidden // sizes.heads if sizes.layers == self.largest else sizes.head_dim
        if config["query_pre_attn_scalar"] != width:
            raise refusal(
                f"{self.arch} with query_pre_attn_scalar {config['query_pre_attn_scalar']}",
                f"scales the queries of {sizes.layers} such layers by {width}",
            )

    def _windows(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the window and which layers slide; no key for the pattern that llama.cpp takes itself."""
        sliding = [kind == SLIDING for kind in self.layer_types(config, sizes)]
        every = next(
            (n for n in (self.pattern, *range(sizes.layers + 2)) if _slide(sizes, n) == sliding), None
        )
        if every is None:
            raise refusal(f"{self.arch} with irregular layer_types", "repeats one pattern")
        said: dict[str, Value] = {"attention.sliding_window": int(config["sliding_window"])}
        return said if every == self.pattern else {**said, "attention.sliding_window_pattern": every}

    def layer_types(self, config: Config, sizes: Sizes) -> Sequence[str]:
        """Return for each layer whether it sees everything or a window."""
        return config.get("layer_types") or _layer_types(sizes, self.pattern)

    def _caps(self, config: Config) -> dict[str, Value]:
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        return {name: float(config[name]) for name in caps if config.get(name)}


class Gemma2(Gemma):
    """Gemma 2: scores and logits are capped, always."""

    def sizes(self, config: Config) -> Sizes:
        """Return the sizes; a head of its own has no place in the file."""
        if not config["tie_word_embeddings"]:
            raise refusal("gemma2 with a head of its own", "uses the embedding")
        return super().sizes(config)

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the keys; llama.cpp knows no Gemma 2 without caps or with scaled positions."""
        check_kind(self.arch, config, [])
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if not config[name]:
                raise refusal(f"gemma2 without {name}", "always caps")
        return super().keys(config, sizes)


class Gemma3(Gemma):
    """Gemma 3: heads have norms, windows a rope of their own."""

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the keys; where every layer sees everything there is no window."""
        check_kind(self.arch, config, ["linear"])
        if config.get("attn_logit_softcapping"):
            raise refusal("gemma3 with attn_logit_softcapping", "caps no scores there")
        local: dict[str, Value] = {"rope.freq_base_swa": float(config["rope_local_base_freq"])}
        return {**super().keys(config, sizes), **local, **scaling_keys(config)}

    def layer_types(self, config: Config, sizes: Sizes) -> Sequence[str]:
        """Return the same; older configs name the pattern alone."""
        return config.get("layer_types") or _layer_types(sizes, int(config["sliding_window_pattern"]))

    def _windows(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        windows = SLIDING in self.layer_types(config, sizes)
        return super()._windows(config, sizes) if windows else {}


def _slide(sizes: Sizes, every: int) -> list[bool]:
    """Return which layers slide where every so-manieth does not; 0: all of them."""
    return [every == 0 or layer % every < every - 1 for layer in range(sizes.layers)]


def _layer_types(sizes: Sizes, every: int) -> list[str]:
    return [SLIDING if slides else FULL for slides in _slide(sizes, every)]


_SILENT = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
GEMMA2 = Gemma2(
    "gemma2",
    {**_SILENT, "rope_theta": 1e4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    pattern=2,
    largest=46,
)
GEMMA3 = Gemma3(
    "gemma3",
    {**_SILENT, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
    head_norms=True,
    pattern=6,
    largest=62,
)

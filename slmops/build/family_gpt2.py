"""GPT-2: learned positions, layer norms with bias, matrices stored the other way round."""

from __future__ import annotations

from slmops.build.family_terms import Config, Family, Sizes, Weight, refusal
from slmops.build.scheme import Value

_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
"""Three names of one formula."""


class Gpt2(Family):
    """Every layer has four matrices, four biases and two norms."""

    @property
    def embedding(self) -> str:
        """Return the name of the token embedding in a checkpoint."""
        return "transformer.wte.weight"

    def sizes(self, config: Config) -> Sizes:
        """Return the sizes; the feed-forward is four times as wide as the model where nothing is said."""
        hidden = config.get("hidden_size") or 0
        sizes = super().sizes({**config, "intermediate_size": config.get("intermediate_size") or 4 * hidden})
        if sizes.queries != sizes.hidden:
            raise refusal(
                f"gpt2 with {sizes.heads} heads in {sizes.hidden} numbers", "expects heads of one width"
            )
        return sizes

    def weights(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return every tensor; positions are one for each token of the context."""
        embedding = Weight((sizes.vocab, sizes.hidden))
        found = {
            self.embedding: embedding,
            "transformer.wpe.weight": Weight((self.context(config), sizes.hidden)),
        }
        block = self.block(config, sizes)
        for layer in range(sizes.layers):
            found |= {f"transformer.h.{layer}.{name}": weight for name, weight in block.items()}
        found |= _norm("transformer.ln_f", sizes)
        return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": embedding}

    def block(self, config: Config, sizes: Sizes) -> dict[str, Weight]:
        """Return the tensors of one layer; a matrix has a row for each number that goes in."""
        del config
        hidden, inner = sizes.hidden, sizes.inner
        return {
            **_norm("ln_1", sizes),
            **_conv("attn.c_attn", hidden, 3 * hidden),
            **_conv("attn.c_proj", hidden, hidden),
            **_norm("ln_2", sizes),
            **_conv("mlp.c_fc", hidden, inner),
            **_conv("mlp.c_proj", inner, hidden),
        }

    def keys(self, config: Config, sizes: Sizes) -> dict[str, Value]:
        """Return the epsilon of the norms, refusing what only some of GPT-2's descendants do."""
        del sizes
        if config["activation_function"] not in _TANH:
            raise refusal(
                f"gpt2 with activation_function {config['activation_function']!r}", f"computes {_TANH[0]}"
            )
        if not config.get("scale_attn_weights", True) or config.get("scale_attn_by_inverse_layer_idx"):
            raise refusal("gpt2 with scores scaled another way", "divides by the root of a head's width")
        return {"attention.layer_norm_epsilon": float(config["layer_norm_epsilon"])}


def _norm(name: str, sizes: Sizes) -> dict[str, Weight]:
    return {f"{name}.{part}": Weight((sizes.hidden,)) for part in ("weight", "bias")}


def _conv(name: str, inputs: int, outputs: int) -> dict[str, Weight]:
    return {
        f"{name}.weight": Weight((inputs, outputs), transposed=True),
        f"{name}.bias": Weight((outputs,)),
    }


GPT2 = Gpt2(
    "gpt2",
    {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
)

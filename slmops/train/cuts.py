"""What can be cut out of a model: which axis of which tensor is which structure.

Pure: from a config and a choice of structures to shapes, indices and a new config. A family is a table of
its tensors; each axis is named by the structures that lie along it, laid end to end where a matrix is fused.

Laws: keeping everything changes nothing; the shapes after a cut are those that the new config describes;
the width of a head never changes, so that its rotation stays what it was; a model whose config has no width
of a head of its own keeps as many heads as its hidden width holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slmops.build.family import FAMILIES, metadata, sizes_of
from slmops.build.family_gemma import Gemma
from slmops.build.family_terms import Shape, Sizes
from slmops.errors import ModelError

HIDDEN, INNER, QUERIES, KEYS = "hidden", "inner", "queries", "keys"
Axis = tuple[str, ...]
"""The structures along an axis, end to end; empty: nothing is cut there."""
Table = Mapping[str, tuple[Axis, ...]]
Places = tuple[int, ...]

_H, _I, _Q, _K = (HIDDEN,), (INNER,), (QUERIES,), (KEYS,)
_WORDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "inner": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}
"""What a sketch calls each number."""


@dataclass(frozen=True)
class Anatomy:
    """Where in a family's tensors its structures lie."""

    layer: str
    """What stands before the number of a layer in a tensor's name."""
    block: Table
    """The axes of each tensor of a layer, by its name inside it."""
    outside: Table
    """The axes of the others that are cut; what is in neither stays as it is."""
    says: Mapping[str, str] = field(default_factory=lambda: _WORDS)
    """What the config calls each number."""
    coupled: bool = False
    """The heads together are as wide as the hidden channels: one is cut with the other."""
    transposed: bool = False
    """A matrix has a row for each input."""
    post_norms: tuple[str, ...] = ()
    """Norms of what a block writes, where the embedding is scaled by the root of the width."""
    plus_one: bool = False
    """A norm's weights are stored as their distance from one."""

    def axes(self, name: str) -> tuple[Axis, ...]:
        """Return the structures along each axis of a tensor; nothing for one that is never cut."""
        layer, inside = self.place(name)
        return self.outside.get(name, ()) if layer is None else self.block.get(inside, ())

    def place(self, name: str) -> tuple[int | None, str]:
        """Return the layer a tensor belongs to, if any, and its name inside it."""
        found = re.match(re.escape(self.layer) + r"(\d+)\.(.+)", name)
        return (int(found[1]), found[2]) if found else (None, name)


@dataclass(frozen=True)
class Keep:
    """What stays of a model: places in the uncut one, in their order."""

    layers: Places
    groups: tuple[Places, ...]
    """For each layer that stays: key-value heads, each with the query heads that read it."""
    inner: tuple[Places, ...]
    """For each layer that stays: channels of its feed-forward."""
    hidden: Places
    """Channels of the stream that all layers read and write."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Return how many layers, groups and inner channels of each, and hidden channels stay."""
        return len(self.layers), len(self.groups[0]), len(self.inner[0]), len(self.hidden)


def _with_bias(table: Table) -> Table:
    biases = {name.removesuffix("weight") + "bias": axes[:1] for name, axes in table.items()}
    return {**table, **biases}


_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_ENDS: Table = {"model.embed_tokens.weight": ((), _H), "model.norm.weight": (_H,), "lm_head.weight": ((), _H)}
_GATED = Anatomy(
    "model.layers.",
    {
        **{f"{name}.weight": (_H,) for name in _NORMS},
        **_with_bias(
            {
                "self_attn.q_proj.weight": (_Q, _H),
                "self_attn.k_proj.weight": (_K, _H),
                "self_attn.v_proj.weight": (_K, _H),
                "self_attn.o_proj.weight": (_H, _Q),
                "mlp.gate_proj.weight": (_I, _H),
                "mlp.up_proj.weight": (_I, _H),
                "mlp.down_proj.weight": (_H, _I),
            }
        ),
    },
    _ENDS,
)
_QWEN2 = Anatomy(_GATED.layer, _GATED.block, _ENDS, coupled=True)
_GEMMA = Anatomy(
    _GATED.layer,
    _GATED.block,
    _ENDS,
    post_norms=("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
    plus_one=True,
)
_PHI = Anatomy(
    "model.layers.",
    {
        **{f"{name}.weight": (_H,) for name in _NORMS[:2]},
        "self_attn.qkv_proj.weight": ((QUERIES, KEYS, KEYS), _H),
        "self_attn.o_proj.weight": (_H, _Q),
        "mlp.gate_up_proj.weight": ((INNER, INNER), _H),
        "mlp.down_proj.weight": (_H, _I),
    },
    _ENDS,
    coupled=True,
)
_GPT2 = Anatomy(
    "transformer.h.",
    {
        **_with_bias({"ln_1.weight": (_H,), "ln_2.weight": (_H,)}),
        "attn.c_attn.weight": (_H, (QUERIES, KEYS, KEYS)),
        "attn.c_attn.bias": ((QUERIES, KEYS, KEYS),),
        "attn.c_proj.weight": (_Q, _H),
        "attn.c_proj.bias": (_H,),
        "mlp.c_fc.weight": (_H, _I),
        "mlp.c_fc.bias": (_I,),
        "mlp.c_proj.weight": (_I, _H),
        "mlp.c_proj.bias": (_H,),
    },
    {
        "transformer.wte.weight": ((), _H),
        "transformer.wpe.weight": ((), _H),
        **_with_bias({"transformer.ln_f.weight": (_H,)}),
        "lm_head.weight": ((), _H),
    },
    says={"layers": "n_layer", "hidden": "n_embd", "inner": "n_inner", "heads": "n_head"},
    coupled=True,
    transposed=True,
)


def _encoder(prefix: str, ends: Table) -> Anatomy:
    """Return the anatomy of Bert and what is named after it; `ends` is what makes labels of its states."""
    attention = {f"attention.self.{name}.weight": (_K, _H) for name in ("query", "key", "value")}
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    embeddings: Table = {f"{prefix}.embeddings.{name}.weight": ((), _H) for name in names}
    norm = _with_bias({f"{prefix}.embeddings.LayerNorm.weight": (_H,)})
    return Anatomy(
        f"{prefix}.encoder.layer.",
        _with_bias(
            {
                **attention,
                "attention.output.dense.weight": (_H, _Q),
                "attention.output.LayerNorm.weight": (_H,),
                "intermediate.dense.weight": (_I, _H),
                "output.dense.weight": (_H, _I),
                "output.LayerNorm.weight": (_H,),
            }
        ),
        {**embeddings, **norm, **_with_bias(ends)},
        says={number: name for number, name in _WORDS.items() if number != "kv_heads"},
        coupled=True,
    )


_DISTILBERT = Anatomy(
    "distilbert.transformer.layer.",
    _with_bias(
        {
            **{f"attention.{name}_lin.weight": (_K, _H) for name in "qkv"},
            "attention.out_lin.weight": (_H, _Q),
            "sa_layer_norm.weight": (_H,),
            "ffn.lin1.weight": (_I, _H),
            "ffn.lin2.weight": (_H, _I),
            "output_layer_norm.weight": (_H,),
        }
    ),
    {
        "distilbert.embeddings.word_embeddings.weight": ((), _H),
        "distilbert.embeddings.position_embeddings.weight": ((), _H),
        **_with_bias({"distilbert.embeddings.LayerNorm.weight": (_H,), "pre_classifier.weight": (_H, _H)}),
        "classifier.weight": ((), _H),
    },
    says={"layers": "n_layers", "hidden": "dim", "inner": "hidden_dim", "heads": "n_heads"},
    coupled=True,
)
_BERT = _encoder("bert", {"bert.pooler.dense.weight": (_H, _H), "classifier.weight": ((), _H)})
_ROBERTA = _encoder("roberta", {"classifier.dense.weight": (_H, _H), "classifier.out_proj.weight": ((), _H)})

ANATOMIES: dict[str, Anatomy] = {
    "LlamaForCausalLM": _GATED,
    "MistralForCausalLM": _GATED,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _GATED,
    "Phi3ForCausalLM": _PHI,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
    "GPT2LMHeadModel": _GPT2,
    "BertForSequenceClassification": _BERT,
    "DistilBertForSequenceClassification": _DISTILBERT,
    "RobertaForSequenceClassification": _ROBERTA,
    "XLMRobertaForSequenceClassification": _ROBERTA,
}


@dataclass(frozen=True)
class Body:
    """A model as it is cut: its family, its config in the words of a sketch, its numbers."""

    architecture: str
    config: Mapping[str, Any]
    anatomy: Anatomy
    sizes: Sizes

    @property
    def whole(self) -> Keep:
        """Return what keeps everything."""
        layers, sizes = range(self.sizes.layers), self.sizes
        return Keep(
            tuple(layers),
            tuple(tuple(range(sizes.kv_heads)) for _ in layers),
            tuple(tuple(range(sizes.inner)) for _ in layers),
            tuple(range(sizes.hidden)),
        )

    @property
    def readers(self) -> int:
        """Return how many query heads read one key-value head."""
        return self.sizes.heads // self.sizes.kv_heads

    @property
    def hidden_of_group(self) -> int:
        """Return how many hidden channels leave with a group; 0 where they are free of each other."""
        return self.sizes.head_dim * self.readers if self.anatomy.coupled else 0

    def places(self, axis: Axis, keep: Keep, place: int | None) -> Places | None:
        """Return what stays along an axis of a tensor of the layer that is `place` in `keep`.

        None where all of it stays.
        """
        if not axis:
            return None
        whole, found, start = True, list[int](), 0
        for structure in axis:
            length, kept = self._kept(structure, keep, place)
            whole = whole and len(kept) == length
            found += [start + number for number in kept]
            start += length
        return None if whole else tuple(found)

    def _kept(self, structure: str, keep: Keep, place: int | None) -> tuple[int, Places]:
        """Return how long the uncut axis of a structure is, and what stays of it."""
        sizes = self.sizes
        if structure == HIDDEN:
            return sizes.hidden, keep.hidden
        if place is None:
            raise ModelError(f"{structure} belongs to a layer")
        if structure == INNER:
            return sizes.inner, keep.inner[place]
        wide = sizes.head_dim * (self.readers if structure == QUERIES else 1)
        groups = keep.groups[place]
        return sizes.kv_heads * wide, tuple(g * wide + number for g in groups for number in range(wide))

    def source(self, name: str, keep: Keep) -> tuple[str, int | None]:
        """Return the tensor that one of the cut model's is cut from, and its layer's place in `keep`."""
        place, inside = self.anatomy.place(name)
        return (
            (name, None) if place is None else (f"{self.anatomy.layer}{keep.layers[place]}.{inside}", place)
        )

    def shapes(self, shapes: Mapping[str, Shape], keep: Keep) -> dict[str, Shape]:
        """Return the shapes after a cut, of the `shapes` before it."""
        found: dict[str, Shape] = {}
        for name, shape in shapes.items():
            layer, inside = self.anatomy.place(name)
            if layer is not None and layer not in keep.layers:
                continue
            place = None if layer is None else keep.layers.index(layer)
            after = name if place is None else f"{self.anatomy.layer}{place}.{inside}"
            axes = self.anatomy.axes(name) or ((),) * len(shape)
            kept = [self.places(axis, keep, place) for axis in axes]
            found[after] = tuple(n if k is None else len(k) for n, k in zip(shape, kept, strict=True))
        return found

    def parameters(self, shapes: Mapping[str, Shape], keep: Keep) -> int:
        """Return the number of weights after a cut."""
        return sum(map(math.prod, self.shapes(shapes, keep).values()))

    def changes(self, keep: Keep) -> dict[str, Any]:
        """Return what the config says otherwise after a cut, in its own words and a sketch's beside them."""
        layers, groups, inner, hidden = keep.counts
        numbers = {"layers": layers, "hidden": hidden, "inner": inner}
        numbers |= {"heads": groups * self.readers, "kv_heads": groups}
        found: dict[str, Any] = {}
        for number, own in self.anatomy.says.items():
            # What is not said follows from the width, which may be another then.
            follows = self.config.get(own) is None and hidden != self.sizes.hidden
            if follows or numbers[number] != getattr(self.sizes, number):
                names = {own, _WORDS[number]} if self.architecture in FAMILIES else {own}
                found |= dict.fromkeys(sorted(names), numbers[number])
        if not self.anatomy.coupled and (hidden, groups) != (self.sizes.hidden, self.sizes.kv_heads):
            found["head_dim"] = self.sizes.head_dim
        kinds = self.config.get("layer_types")
        if kinds and layers != self.sizes.layers:
            found["layer_types"] = [kinds[layer] for layer in keep.layers]
        return found

    def after(self, keep: Keep) -> dict[str, Any]:
        """Return the config after a cut, in the words of a sketch."""
        return {**self.config, **self.changes(keep)}


def body_of(architecture: str, config: Mapping[str, Any]) -> Body:
    """Return how a model is cut; raise ModelError for a family that is not known here."""
    if architecture not in ANATOMIES:
        raise ModelError(
            f"no structure of {architecture} is known to cut; known are {', '.join(ANATOMIES)}",
            remedy="Distill into a smaller model of your own shape: `slmops distill --student CONFIG`.",
        )
    anatomy = ANATOMIES[architecture]
    if architecture in FAMILIES:
        sizes, family = sizes_of(architecture, config), FAMILIES[architecture]
        if isinstance(family, Gemma):
            config = {**config, "layer_types": list(family.layer_types({**family.defaults, **config}, sizes))}
        return Body(architecture, config, anatomy, sizes)
    numbers: dict[str, Any] = {name: config.get(own) for name, own in anatomy.says.items()}
    numbers["vocab"] = config.get("vocab_size")
    silent = [
        anatomy.says.get(name, "vocab_size") for name, value in numbers.items() if not isinstance(value, int)
    ]
    if silent:
        raise ModelError(f"config.json does not say {', '.join(silent)}")
    heads = numbers["heads"]
    sizes = Sizes(**numbers, kv_heads=heads, head_dim=numbers["hidden"] // heads)
    return Body(architecture, config, anatomy, sizes)


def runs_alike(body: Body, keep: Keep) -> bool:
    """Return whether the layers that stay still alternate as every runtime takes them to."""
    if body.anatomy is not _GEMMA:
        return True
    try:
        metadata(body.architecture, body.after(keep))
    except ModelError:
        return False
    return True

"""The model families that can be written as GGUF, and what each is called there.

Pure: from a config and tensor shapes to GGUF metadata and a list of tensors; knows nothing of files,
types or tokens. Says what llama.cpp's own converter says for the same model. A family is a line of
FAMILIES and a class of `family_terms.Family` that describes it.

Laws: every tensor of the checkpoint is placed exactly once, or the model is refused; a config that
the runtime would compute differently from transformers is refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

from slmops.build.family_gemma import GEMMA2, GEMMA3
from slmops.build.family_gpt2 import GPT2
from slmops.build.family_llama import LLAMA, MISTRAL, QWEN2, QWEN3
from slmops.build.family_phi import PHI3
from slmops.build.family_terms import WAY_OUT, Config, Family, Shape, Sizes, Weight
from slmops.build.scheme import Build, Value
from slmops.errors import ModelError

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Phi3ForCausalLM": PHI3,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "GPT2LMHeadModel": GPT2,
}
_ARCHES: dict[str, MODEL_ARCH] = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the GGUF file and where its numbers come from."""

    name: str
    shape: Shape
    """Rows first, as it is in the file."""
    source: str = ""
    """Its name in the checkpoint; empty when `values` are the numbers."""
    rotated_heads: int = 0
    """Rows of one head when its two halves are to be interleaved; 0: as they are."""
    transposed: bool = False
    """Its rows are the columns of the source."""
    plus_one: bool = False
    """One is added to every number."""
    values: tuple[float, ...] = ()


def family_of(architecture: str) -> Family:
    """Return the family; raise ModelError naming the supported ones and the way out."""
    if architecture not in FAMILIES:
        raise ModelError(
            f"no GGUF conversion for {architecture}; supported: {', '.join(FAMILIES)}", remedy=WAY_OUT
        )
    return FAMILIES[architecture]


def sizes_of(architecture: str, config: Config) -> Sizes:
    """Return the numbers that shapes follow from; raise ModelError for what the config does not say."""
    family = family_of(architecture)
    return family.sizes(_whole(family, config))


def ties_head(architecture: str, config: Config) -> bool:
    """Return whether the output head is the embedding, said or taken for granted."""
    family = FAMILIES.get(architecture)
    return bool((config if family is None else _whole(family, config)).get("tie_word_embeddings"))


def expected_shapes(architecture: str, config: Config) -> dict[str, Shape]:
    """Return name and shape of every tensor of a checkpoint with this config, in the order written."""
    return {name: weight.shape for name, weight in _weights(architecture, config).items()}


def build_of(architecture: str, config: Config) -> Build:
    """Return what the choice of types asks of the model."""
    sizes = sizes_of(architecture, config)
    return Build(layers=sizes.layers, heads=sizes.heads, kv_heads=sizes.kv_heads)


def layout(architecture: str, config: Config, shapes: Mapping[str, Shape]) -> tuple[GgufTensor, ...]:
    """Return the tensors of the GGUF file in order; raise ModelError unless `shapes` are this model's."""
    family = family_of(architecture)
    config = _whole(family, config)
    sizes = family.sizes(config)
    weights = family.weights(config, sizes)
    _check_shapes(architecture, {name: weight.shape for name, weight in weights.items()}, shapes)
    names = get_tensor_name_map(_ARCHES[family.arch], sizes.layers)
    placed = [
        GgufTensor(
            name=str(names.get_name(name, try_suffixes=(".weight", ".bias"))),
            shape=weight.shape[::-1] if weight.transposed else weight.shape,
            source=name,
            rotated_heads=weight.rotated_heads,
            transposed=weight.transposed,
            plus_one=weight.plus_one,
        )
        for name, weight in weights.items()
    ]
    factors = family.factors(config, sizes)
    return (
        *placed,
        *(GgufTensor(name, (len(values),), values=values) for name, values in factors.items()),
    )


def metadata(architecture: str, config: Config) -> dict[str, Value]:
    """Return the model's GGUF keys, tokenizer aside; raise ModelError for what llama.cpp does not compute."""
    family = family_of(architecture)
    config = _whole(family, config)
    sizes = family.sizes(config)
    said: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": family.context(config),
        "embedding_length": sizes.hidden,
        "feed_forward_length": sizes.inner,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "vocab_size": sizes.vocab,
        **family.keys(config, sizes),
    }
    return {f"{family.arch}.{key}": value for key, value in said.items()}


def context_of(architecture: str, config: Config) -> int:
    """Return the context in tokens: how many llama.cpp and transformers read alike."""
    family = family_of(architecture)
    return family.context(_whole(family, config))


def _whole(family: Family, config: Config) -> Config:
    """Return the config with what transformers takes where it is silent."""
    return {**family.defaults, **config}


def _weights(architecture: str, config: Config) -> dict[str, Weight]:
    family = family_of(architecture)
    config = _whole(family, config)
    return family.weights(config, family.sizes(config))


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

"""What a text classifier is: its labels, how long a text it reads, the bytes and the memory it comes to.

Pure: a configuration and the shapes of tensors in, values out. Knows nothing of files, graphs or texts.

Laws: a model with one number per text, or several labels at once, is refused and never misread as one
with one label a text; INT8 is predicted never larger than F32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from slmops.errors import ModelError
from slmops.profile.footprint import ModelShape

SUFFIX = "ForSequenceClassification"
FAMILIES = ("Albert", "Bert", "DebertaV2", "DistilBert", "Electra", "MPNet", "Roberta", "XLMRoberta")
"""Encoders whose exported graph was compared with the source's own answers. MiniLM is a Bert."""
DYNAMIC, STATIC = "INT8-dynamic", "INT8-static"
TYPES = ("INT8", DYNAMIC, STATIC, "F32")
"""INT8 is the better of the two by measurement."""
SMALL = 4096
"""Weights of a table below which it stays in float32: scales and arithmetic would eat what bytes save."""
GRAPH, GRAPH_PER_LAYER = 6_000, 5_000
"""Bytes of operators and names, about: measured on Bert, with what rounds activations token by token."""
_SHIFTED = {"camembert", "mpnet", "roberta", "xlm-roberta"}
"""Model types whose positions are counted from behind the padding id."""


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Say whether the model of this config.json labels texts."""
    return _architecture(config).endswith(SUFFIX)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels in the order of the logits; raise ModelError unless there is one for each text."""
    architecture = _architecture(config)
    if architecture.removesuffix(SUFFIX) not in FAMILIES or not is_classifier(config):
        raise ModelError(
            f"expected a text classifier of a known family, got {architecture}; known are "
            + ", ".join(name + SUFFIX for name in FAMILIES),
            remedy="Fine-tune one of these families; an encoder such as MiniLM or DistilBert is small.",
        )
    said = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(str(said.get(str(number), said.get(number))) for number in range(len(said)))
    if "None" in labels or len(set(labels)) != len(labels):
        raise ModelError(
            f"config.json: id2label: expected the ids 0 to {len(said) - 1}, each with a label of its own",
            remedy="Correct id2label in config.json.",
        )
    kind = config.get("problem_type") or "single_label_classification"
    if kind != "single_label_classification" or len(labels) < 2:  # noqa: PLR2004 - a choice needs two
        raise ModelError(
            f"expected a model that gives each text one of several labels, got {kind} with {len(labels)}",
            remedy="Train it with problem_type single_label_classification.",
        )
    return labels


def context_of(config: Mapping[str, Any]) -> int:
    """Return how many tokens of one text, special ones included, the model can read."""
    most = _count(config, "max_position_embeddings")
    shifted = config.get("model_type") in _SHIFTED
    return most - (int(config.get("pad_token_id", 1)) + 1 if shifted else 0)


def shape_of(config: Mapping[str, Any], parameters: int) -> ModelShape:
    """Return the shape by which memory is predicted: a decoder's without a cache, served in one batch.

    Use `context` as `micro_batch` with it.
    """
    heads = _count(config, "num_attention_heads", "n_heads")
    hidden = _count(config, "hidden_size", "dim")
    return ModelShape(
        layers=_count(config, "num_hidden_layers", "n_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=0,
        head_dim=hidden // heads,
        vocab=_count(config, "vocab_size"),
        parameters=parameters,
        inner=_count(config, "intermediate_size", "hidden_dim"),
        outputs=len(labels_of(config)),
    )


def predicted_bytes(config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]], type_name: str) -> int:
    """Return about how large the file of type `type_name` will be, from the shapes of the tensors."""
    graph = GRAPH + GRAPH_PER_LAYER * _count(config, "num_hidden_layers", "n_layers")
    if type_name == "F32":
        return graph + sum(4 * math.prod(shape) for shape in shapes)
    return graph + sum(_bytes_when_rounded(shape) for shape in shapes)


def _bytes_when_rounded(shape: tuple[int, ...]) -> int:
    weights = math.prod(shape)
    # A byte a weight; for each row a scale and a zero point.
    return 4 * weights if len(shape) == 1 or weights < SMALL else weights + 5 * shape[0]


def _architecture(config: Mapping[str, Any]) -> str:
    return str((config.get("architectures") or ["unknown"])[0])


def _count(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ModelError(
        f"config.json: expected a whole number under {names[0]!r}, got none",
        remedy="Use the config.json that was saved with these weights.",
    )

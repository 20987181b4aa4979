"""Write a LoRA adapter as a GGUF file that llama.cpp adds to its base.

Knows the names and the order of rows that a base has in GGUF, from its family's layout; nothing of
peft's folder and of training.

Laws: a factor lies as its matrix lies: where the rows of a matrix of the base change places, so do
those of B; the file appears whole or not at all. llama.cpp takes what scales B x A as alpha / rank.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray

from slmops.build.family import GgufTensor, family_of, layout
from slmops.build.pieces import interleaved
from slmops.build.quantize_gguf import whole_file
from slmops.build.sketch import Sketch
from slmops.errors import BuildError, ModelError
from slmops.train.adapter import Adapter, Factors

HEADER = 4096
"""Bytes of keys, and at most so many for each name, beside the numbers."""


def write_adapter_gguf(adapter: Adapter, base: Sketch, out: Path) -> None:
    """Write `adapter` to `out` in F16; raise ModelError where llama.cpp has no such adapter.

    That is where the family of `base` has no GGUF, or where more than factors was trained.
    """
    if adapter.whole:
        raise ModelError(
            f"{min(adapter.whole)} was trained whole; a GGUF adapter holds factors alone",
            remedy="Merge it into its base instead (--merge).",
        )
    arch = family_of(base.architecture).arch
    tensors = {
        name: numbers
        for tensor, factors in _placed(adapter, base)
        for name, numbers in _as_stored(tensor, factors).items()
    }
    writer = GGUFWriter(None, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.scaling * adapter.rank)
    for name, numbers in tensors.items():
        writer.add_tensor(name, numbers)
    with whole_file(out, HEADER * (1 + len(tensors)) + 2 * adapter.parameters) as partial:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _placed(adapter: Adapter, base: Sketch) -> list[tuple[GgufTensor, Factors]]:
    """Return each pair of factors with the tensor of the base that it is added to, in the base's order."""
    tensors = {tensor.source: tensor for tensor in layout(base.architecture, base.config, base.shapes)}
    strange = [name for name in adapter.factors if f"{name}.weight" not in tensors]
    if strange:
        raise ModelError(
            f"the adapter changes {strange[0]}, which {base.folder} does not have",
            remedy="Give the model that the adapter was trained on.",
        )
    return [
        (tensor, adapter.factors[source.removesuffix(".weight")])
        for source, tensor in tensors.items()
        if source.removesuffix(".weight") in adapter.factors
    ]


def _as_stored(tensor: GgufTensor, factors: Factors) -> dict[str, NDArray[np.float16]]:
    """Return the two tensors by name; GPT-2's factors are turned already, its matrices are not."""
    b = interleaved(factors.b, tensor.rotated_heads) if tensor.rotated_heads else factors.b
    return {
        f"{tensor.name}.lora_a": _halved(tensor.name, factors.a),
        f"{tensor.name}.lora_b": _halved(tensor.name, b),
    }


def _halved(name: str, numbers: NDArray[np.float32]) -> NDArray[np.float16]:
    if np.abs(numbers).max() > np.finfo(np.float16).max:
        raise BuildError(
            f"the adapter's factors of {name} reach {np.abs(numbers).max():.3g}: too large for F16",
            remedy="Train it again with a smaller --rate.",
        )
    return numbers.astype(np.float16)

"""Which ggml type each tensor gets under a GGUF file type, and how many bytes that makes.

Pure. The rules are llama.cpp's own (src/llama-quant.cpp of the build that llama-cpp-python 0.3.36
carries), for dense models with and without an importance matrix, so that a file made here and one made
there are the same. It knows tensor names and shapes, not weights.

Laws: a chosen type's block always divides the row; what the shape forced away from the named type is
listed, so nobody takes the label for the truth; the predicted size of the file is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slmops.errors import UsageError

Value = str | bool | int | float | list[str] | list[int] | list[float]
"""What a GGUF key can hold here; numbers take 32 bits."""

ALIGNMENT = 32


@dataclass(frozen=True)
class GgmlType:
    """A storage type: `id` in the file format; `block` weights take `nbytes` bytes."""

    id: int
    block: int
    nbytes: int

    def size(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of this type."""
        return math.prod(shape) // self.block * self.nbytes


GGML_TYPES = {
    "F32": GgmlType(0, 1, 4),
    "F16": GgmlType(1, 1, 2),
    "Q4_0": GgmlType(2, 32, 18),
    "Q4_1": GgmlType(3, 32, 20),
    "Q5_0": GgmlType(6, 32, 22),
    "Q5_1": GgmlType(7, 32, 24),
    "Q8_0": GgmlType(8, 32, 34),
    "Q2_K": GgmlType(10, 256, 84),
    "Q3_K": GgmlType(11, 256, 110),
    "Q4_K": GgmlType(12, 256, 144),
    "Q5_K": GgmlType(13, 256, 176),
    "Q6_K": GgmlType(14, 256, 210),
    "IQ4_NL": GgmlType(20, 32, 18),
    "IQ3_S": GgmlType(21, 256, 110),
    "IQ4_XS": GgmlType(23, 256, 136),
    "BF16": GgmlType(30, 1, 2),
}


@dataclass(frozen=True)
class FileType:
    """A name people ask for: its number in `general.file_type` and the ggml type most tensors get."""

    id: int
    default: str


FILE_TYPES = {
    "F32": FileType(0, "F32"),
    "F16": FileType(1, "F16"),
    "Q4_0": FileType(2, "Q4_0"),
    "Q4_1": FileType(3, "Q4_1"),
    "Q8_0": FileType(7, "Q8_0"),
    "Q5_0": FileType(8, "Q5_0"),
    "Q5_1": FileType(9, "Q5_1"),
    "Q2_K": FileType(10, "Q2_K"),
    "Q3_K_M": FileType(12, "Q3_K"),
    "Q4_K_S": FileType(14, "Q4_K"),
    "Q4_K_M": FileType(15, "Q4_K"),
    "Q5_K_S": FileType(16, "Q5_K"),
    "Q5_K_M": FileType(17, "Q5_K"),
    "Q6_K": FileType(18, "Q6_K"),
    "IQ4_NL": FileType(25, "IQ4_NL"),
    "IQ3_S": FileType(26, "IQ3_S"),
    "IQ4_XS": FileType(30, "IQ4_XS"),
    "BF16": FileType(32, "BF16"),
}
_WHEN_256_DOES_NOT_DIVIDE = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
}
_NEVER_ROUNDED = ("position_embd.weight", "token_types.weight")


@dataclass(frozen=True)
class Build:
    """What the choice of types asks of a model besides its tensors."""

    layers: int
    heads: int
    kv_heads: int
    importance: bool = False
    """Whether an importance matrix weighs the rounding; llama.cpp then protects other tensors."""

    @property
    def shares_values_widely(self) -> bool:
        """Return whether at least four query heads share each value head."""
        return self.heads // self.kv_heads >= 4  # noqa: PLR2004

    @property
    def is_70b(self) -> bool:
        """Return whether llama.cpp takes it for the 70B model: 80 layers, grouped heads."""
        return self.layers == 80 and self.heads != self.kv_heads  # noqa: PLR2004


@dataclass(frozen=True)
class Fallback:
    """A tensor whose row length does not allow the type it should have had."""

    tensor: str
    columns: int
    wanted: str
    got: str
    weights: int


@dataclass(frozen=True)
class Scheme:
    """The type of every tensor under one file type."""

    file_type: str
    types: dict[str, str]
    fallbacks: tuple[Fallback, ...]
    data_bytes: int
    """Tensor data in the file, padding included."""
    bits_per_weight: float
    """Real ones: every tensor counted, norms and fallbacks too."""
    fallback_share: float
    """Share of the weights that did not get the type they should have had, 0..1."""


def choose(tensors: Mapping[str, tuple[int, ...]], file_type: str, build: Build) -> Scheme:
    """Return the scheme for tensors by GGUF name, shapes rows first; raise UsageError for an unknown type."""
    check_file_type(file_type)
    tied = "output.weight" not in tensors
    wanted = {name: _wanted(name, shape, file_type, build, tied=tied) for name, shape in tensors.items()}
    types = {name: that_divides(wanted[name], shape[-1]) for name, shape in tensors.items()}
    return _scheme(tensors, file_type, types, wanted)


def compose(tensors: Mapping[str, tuple[int, ...]], types: Mapping[str, str]) -> Scheme:
    """Return the scheme in which every tensor has the type that `types` says.

    Its file type is that of the type that most weights have, as llama.cpp guesses it.
    """
    weights: dict[str, int] = {}
    for name, shape in tensors.items():
        weights[types[name]] = weights.get(types[name], 0) + math.prod(shape)
    named = {kind.default: name for name, kind in FILE_TYPES.items()}
    most = max((kind for kind in weights if kind in named), key=lambda kind: weights[kind])
    return _scheme(tensors, named[most], dict(types), types)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is rounded at all: norms, biases and learned positions stay as they are."""
    return (
        len(shape) > 1
        and shape[0] > 1
        and name.endswith("weight")
        and not name.endswith("_norm.weight")
        and name not in _NEVER_ROUNDED
    )


def that_divides(wanted: str, columns: int) -> str:
    """Return `wanted`, or the type llama.cpp puts in its place when its block does not divide the row."""
    steps: Iterable[str] = (wanted, _WHEN_256_DOES_NOT_DIVIDE.get(wanted, "F16"), "F16")
    return next(step for step in steps if columns % GGML_TYPES[step].block == 0)


def _scheme(
    tensors: Mapping[str, tuple[int, ...]], file_type: str, types: dict[str, str], wanted: Mapping[str, str]
) -> Scheme:
    sizes = {name: GGML_TYPES[types[name]].size(shape) for name, shape in tensors.items()}
    weights = {name: math.prod(shape) for name, shape in tensors.items()}
    fallbacks = tuple(
        Fallback(name, shape[-1], wanted[name], types[name], weights[name])
        for name, shape in tensors.items()
        if types[name] != wanted[name]
    )
    return Scheme(
        file_type=file_type,
        types=types,
        fallbacks=fallbacks,
        data_bytes=sum(map(padded, sizes.values())),
        bits_per_weight=8 * sum(sizes.values()) / sum(weights.values()),
        fallback_share=sum(each.weights for each in fallbacks) / sum(weights.values()),
    )


def check_file_type(name: str) -> None:
    """Raise UsageError unless `name` is a GGUF file type made here."""
    if name not in FILE_TYPES:
        raise UsageError(
            f"no GGUF type {name!r}; expected one of {', '.join(FILE_TYPES)}",
            remedy="Ask for one of them with --type, or leave --type auto.",
        )


def predicted_bytes(tensors: Mapping[str, tuple[int, ...]], scheme: Scheme, keys_bytes: int) -> int:
    """Return the size of the GGUF file, to the byte, where its keys take `keys_bytes`."""
    opening = 4 + 4 + 8 + 8  # magic, version, number of tensors, number of keys
    placed = sum(8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8 for name, shape in tensors.items())
    return padded(opening + keys_bytes + placed) + scheme.data_bytes


def keys_bytes(keys: Mapping[str, Value]) -> int:
    """Return what keys and values take in the header."""
    return sum(8 + len(key.encode()) + 4 + _nbytes(value) for key, value in keys.items())


def padded(nbytes: int) -> int:
    """Return `nbytes` rounded up to the alignment of tensor data in a GGUF file."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _nbytes(value: Value) -> int:
    if isinstance(value, list):
        return 4 + 8 + sum(map(_nbytes, value))
    if isinstance(value, str):
        return 8 + len(value.encode())
    return 1 if isinstance(value, bool) else 4


def _wanted(name: str, shape: tuple[int, ...], file_type: str, build: Build, *, tied: bool) -> str:
    """Return the type a tensor would get if its rows were of any length."""
    default = FILE_TYPES[file_type].default
    if not is_matrix(name, shape):
        return "F32"
    if GGML_TYPES[default].block == 1:
        return default
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q8_0" if default == "Q8_0" else "Q6_K"
    if ".attn_v." in name or ".attn_qkv." in name:
        return _for_values(default, file_type, _layer(name), build)
    if ".ffn_down." in name:
        return _for_down(default, file_type, _layer(name), build)
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(file_type, default) if ".attn_output." in name else default


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else 0


def _more_bits(layer: int, layers: int) -> bool:
    """First and last eighth, and every third between: where precision pays most."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2  # noqa: PLR2004


def _for_values(default: str, file_type: str, layer: int, build: Build) -> str:
    few = build.shares_values_widely
    chosen = {
        "Q2_K": "Q4_K" if few else "Q3_K",
        "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K",  # noqa: PLR2004
        "Q4_K_S": "Q5_K" if layer < 4 else default,  # noqa: PLR2004
        "Q4_K_M": "Q6_K" if _more_bits(layer, build.layers) else default,
        "Q5_K_M": "Q6_K" if _more_bits(layer, build.layers) else default,
        "IQ4_NL": "Q5_K" if few else default,
        "IQ4_XS": "Q5_K" if few else default,
        "IQ3_S": "Q4_K" if few else default,
    }.get(file_type, default)
    return "Q5_K" if build.is_70b and chosen in ("Q3_K", "Q4_K") else chosen


def _for_down(default: str, file_type: str, layer: int, build: Build) -> str:
    layers = build.layers
    first_eighth = layer < layers // 8
    if file_type == "Q2_K":
        return "Q3_K"
    if file_type == "Q3_K_M":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    if file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return "Q6_K"
    raised = {"Q4_K_S": "Q5_K"}
    raised |= {"Q4_0": "Q4_1", "Q5_0": "Q5_1"} if build.importance else {"IQ4_NL": "Q5_K", "IQ4_XS": "Q5_K"}
    return raised.get(file_type, default) if first_eighth else default

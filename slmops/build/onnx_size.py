"""How many bytes an ONNX decoder will take, said before it is built.

Pure: from the shapes of a checkpoint's tensors. Says the types there are, and what share of the weights
INT4 keeps in bytes.

Laws: a type with fewer bits is predicted smaller; the prediction grows with every tensor. The graph's own
bytes were measured on models of seven families and 2 to 12 layers: 5.0 to 6.1 kB a layer in float32, 5.7 to
8.1 with rounding in it, and 3 to 4 kB beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from slmops.build.nibbles import packed_bytes

Shape = tuple[int, ...]
ONNX_TYPES = ("INT8", "INT4", "F32")
SENSITIVE_SHARE = 1 / 8
"""Share of the inner weights that INT4 keeps in bytes: those of the matrices that bear four bits least."""
F32 = 4
GRAPH = 4_000
LAYER = {"F32": 5_500, "INT8": 7_500, "INT4": 7_500}
"""Bytes of the graph, and of each of its layers, weights aside."""
_ENDS = (".embed_tokens.weight", ".wte.weight", "lm_head.weight")
_POSITIONS = ".wpe.weight"


def is_end(name: str) -> bool:
    """Return whether a tensor is the embedding or the head."""
    return name.endswith(_ENDS)


def predicted_bytes(type_name: str, shapes: Mapping[str, Shape], layers: int) -> int:
    """Return the bytes of the file that `quantize_onnx` will write for a checkpoint with such tensors."""
    kept = {"F32": 1.0, "INT8": 1.0, "INT4": SENSITIVE_SHARE}[type_name]
    weights = sum(_tensor_bytes(type_name, name, shape, kept) for name, shape in shapes.items())
    return GRAPH + layers * LAYER[type_name] + round(weights)


def _is_matrix(name: str, shape: Shape) -> bool:
    return len(shape) == 2 and not name.endswith(_POSITIONS)  # noqa: PLR2004


def _tensor_bytes(type_name: str, name: str, shape: Shape, kept: float) -> float:
    if type_name == "F32" or not _is_matrix(name, shape):
        return F32 * math.prod(shape)
    in_bytes = math.prod(shape) + (F32 + 1) * max(shape)
    if type_name == "INT8" or is_end(name):
        return in_bytes
    return kept * in_bytes + (1 - kept) * max(packed_bytes(*shape), packed_bytes(*shape[::-1]))

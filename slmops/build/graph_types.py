"""Rounded weights in an ONNX decoder's graph: bytes for standard operators, nibbles for MatMulNBits.

Pure: graphs in, graphs changed in place. Knows nothing of files, of torch or of which matrix bears what.

Laws: each change computes the same function up to the rounding of weights and activations; a token's
logits do not depend on which other tokens were fed in the same call. Bytes are unsigned, and read by
standard ONNX operators alone. Signed ones meet unsigned activations in AVX2 instructions that saturate: a
model that is right on the build machine (VNNI) then loses half its answers on a CPU without.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from slmops.build.graph import lookup, matrices, rewrite, weights
from slmops.build.nibbles import BLOCK, Nibbles

CONTRIBUTED = "com.microsoft"
"""The domain of ONNX Runtime's own operators; MatMulNBits is in every build of it for a CPU."""
MIDDLE = 128
"""What stands for zero in a symmetric row of unsigned bytes."""
_CONSTANTS = {
    "token.axis": np.array([-1], np.int64),
    "token.least": np.array(1e-30, np.float32),
    "token.reach": np.array(MIDDLE - 1, np.float32),
    "token.middle": np.array(MIDDLE, np.float32),
    "token.zero": np.array(MIDDLE, np.uint8),
}


def round_matrices(model: ModelProto, nibbles: Mapping[str, Nibbles]) -> dict[str, str]:
    """Put `nibbles` where they belong, by names of the checkpoint, and bytes in place of all other matrices.

    Return the type of each: INT4 or INT8. The float matrices stay, for an embedding may be one of them.
    """
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
    known, types, instead = weights(graph), dict[str, str](), dict[str, list[NodeProto]]()
    for name, node in matrices(graph):
        types[name] = "INT4" if name in nibbles else "INT8"
        if name in nibbles:
            instead[node.output[0]] = _product_with_nibbles(graph, node, nibbles[name])
        else:
            _store_bytes(graph, known[node.input[1]])
            instead[node.output[0]] = _product_with_bytes(node)
    rewrite(graph, instead)
    if nibbles:
        model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
    return types


def round_embedding(model: ModelProto) -> None:
    """Read the embedding, which lies by column, from bytes with a scale per token: the head's, if shared."""
    graph = model.graph
    node = lookup(graph)
    (name, ids), out = node.input, node.output[0]
    _store_bytes(graph, weights(graph)[name])
    instead = [
        helper.make_node("Gather", [f"{name}.bytes", ids], [f"{out}.byte"], axis=1),
        helper.make_node("Gather", [f"{name}.zeros", ids], [f"{out}.zero"]),
        helper.make_node("Gather", [f"{name}.scales", ids], [f"{out}.scale"]),
        helper.make_node("Cast", [f"{out}.byte"], [f"{out}.value"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [f"{out}.zero"], [f"{out}.middle"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{out}.value", f"{out}.middle"], [f"{out}.steps"]),
        helper.make_node("Mul", [f"{out}.steps", f"{out}.scale"], [out]),
    ]
    rewrite(graph, {out: instead})


def set_accuracy_level(model: ModelProto, level: int) -> None:
    """Say how MatMulNBits rounds its inputs: 1 not at all, 4 to bytes, block by block, which is faster."""
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [part for part in node.attribute if part.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", level)])


def _store_bytes(graph: GraphProto, tensor: TensorProto) -> None:
    """Add bytes, scales and zeros of a matrix, unless another product has already."""
    name = tensor.name
    if f"{name}.bytes" in weights(graph):
        return
    parts = zip(("bytes", "scales", "zeros"), _round_columns(numpy_helper.to_array(tensor)), strict=True)
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts)


def _product_with_bytes(node: NodeProto) -> list[NodeProto]:
    """Return nodes for the product, its inputs rounded to bytes by a scale of each token's own.

    One scale for all tokens of a call will not do: decoders have tokens (the first one above all) whose
    values are a hundred times the others'. Scaled is by column, then by token: by the product of both,
    ONNX Runtime would fuse them into its MatMulIntegerToFloat, which adds the bias of a layer before a
    scale that is not a scalar.
    """
    (given, name), out = node.input, node.output[0]
    return [
        helper.make_node("Abs", [given], [f"{out}.size"]),
        helper.make_node("ReduceMax", [f"{out}.size", "token.axis"], [f"{out}.largest"], keepdims=1),
        helper.make_node("Max", [f"{out}.largest", "token.least"], [f"{out}.range"]),
        helper.make_node("Div", [f"{out}.range", "token.reach"], [f"{out}.scale"]),
        helper.make_node("Div", [given, f"{out}.scale"], [f"{out}.steps"]),
        helper.make_node("Add", [f"{out}.steps", "token.middle"], [f"{out}.shifted"]),
        helper.make_node("Round", [f"{out}.shifted"], [f"{out}.rounded"]),
        helper.make_node("Cast", [f"{out}.rounded"], [f"{out}.byte"], to=TensorProto.UINT8),
        helper.make_node(
            "MatMulInteger", [f"{out}.byte", f"{name}.bytes", "token.zero", f"{name}.zeros"], [f"{out}.sum"]
        ),
        helper.make_node("Cast", [f"{out}.sum"], [f"{out}.value"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}.value", f"{name}.scales"], [f"{out}.by_column"]),
        helper.make_node("Mul", [f"{out}.by_column", f"{out}.scale"], [out]),
    ]


def _product_with_nibbles(graph: GraphProto, node: NodeProto, nibbles: Nibbles) -> list[NodeProto]:
    """Return nodes for the product; the runtime widens the scales once, when it loads."""
    (given, name), out = node.input, node.output[0]
    parts = {"codes": nibbles.packed_codes, "halves": nibbles.scales, "zeros": nibbles.packed_zeros}
    graph.initializer.extend(
        numpy_helper.from_array(value, f"{name}.{part}") for part, value in parts.items()
    )
    outputs, inputs = nibbles.shape
    return [
        helper.make_node("Cast", [f"{name}.halves"], [f"{name}.scales"], to=TensorProto.FLOAT),
        helper.make_node(
            "MatMulNBits",
            [given, f"{name}.codes", f"{name}.scales", f"{name}.zeros"],
            [out],
            domain=CONTRIBUTED,
            N=outputs,
            K=inputs,
            bits=4,
            block_size=BLOCK,
        ),
    ]


def _round_columns(
    columns: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return bytes, scales and zeros with `columns ~ (bytes - zeros) * scales`."""
    least, most = np.minimum(columns.min(axis=0), 0), np.maximum(columns.max(axis=0), 0)
    scales = np.maximum((most - least) / 255, np.finfo(np.float32).tiny).astype(np.float32)
    zeros = np.rint(-least / scales)
    return np.clip(np.rint(columns / scales) + zeros, 0, 255).astype(np.uint8), scales, zeros.astype(np.uint8)

"""An ONNX decoder's graph: one embedding for both ends, activations rounded token by token, short names.

Pure: graphs in, graphs changed in place. Knows nothing of files, of torch or of how the graph was
exported; finds what it needs by operator and shape.

Laws: each change computes the same function up to 8-bit rounding; only standard ONNX operators are
used, so every runtime on x86 and ARM reads the result; a token's logits do not depend on which
other tokens were fed in the same call.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from slmops.errors import BuildError

OPSET = 18
"""First opset in which ReduceMax takes its axes as an input."""
MIDDLE = 128
"""What stands for zero in a symmetric row of unsigned bytes."""


def read_embedding_by_column(model: ModelProto) -> None:
    """Keep the embedding as (hidden, vocabulary), in the head's own bytes where the two are one.

    The exporter writes a tied embedding twice: as rows to look up, and transposed for the head.
    """
    graph = model.graph
    weights, lookup = _weights(graph), _lookup(graph)
    rows = numpy_helper.to_array(weights[lookup.input[0]])
    heads = [
        weights[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights
    ]
    shared = [head.name for head in heads if list(head.dims) == [*reversed(rows.shape)] and _same(head, rows)]
    name, ids, out = lookup.input[0], lookup.input[1], lookup.output[0]
    graph.initializer.remove(weights[name])
    if not shared:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows.T), name))
    instead = [
        helper.make_node("Gather", [[*shared, name][0], ids], [f"{out}.columns"], axis=1),
        helper.make_node("Transpose", [f"{out}.columns"], [out], perm=[1, 2, 0]),
    ]
    _rewrite(graph, {out: instead})


def round_embedding(model: ModelProto) -> None:
    """Read the embedding from unsigned bytes with a scale per token: the head's own, if it is shared."""
    graph = model.graph
    weights, lookup = _weights(graph), _lookup(graph)
    name, ids, out = lookup.input[0], lookup.input[1], lookup.output[0]
    rounded, scale, zero = (f"{name}_{part}" for part in ("quantized", "scale", "zero_point"))
    if rounded not in weights:
        columns = _round_columns(numpy_helper.to_array(weights[name]))
        graph.initializer.extend(map(numpy_helper.from_array, columns, (rounded, scale, zero)))
    graph.initializer.remove(weights[name])
    instead = [
        helper.make_node("Gather", [rounded, ids], [f"{out}.byte"], axis=1),
        helper.make_node("Gather", [zero, ids], [f"{out}.zero"]),
        helper.make_node("Gather", [scale, ids], [f"{out}.scale"]),
        helper.make_node("Cast", [f"{out}.byte"], [f"{out}.value"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [f"{out}.zero"], [f"{out}.middle"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{out}.value", f"{out}.middle"], [f"{out}.steps"]),
        helper.make_node("Mul", [f"{out}.steps", f"{out}.scale"], [out]),
    ]
    _rewrite(graph, {out: instead})


def round_by_token(model: ModelProto) -> None:
    """Give each token its own scale where all tokens of a call shared one.

    ONNX Runtime's dynamic quantiser rounds the activations of a call by the largest among them, and
    decoders have tokens (the first one above all) whose values are a hundred times the others'.
    """
    graph = model.graph
    constants = {"axis": np.array([-1], np.int64), "least": np.array(1e-30, np.float32)}
    constants |= {"reach": np.array(MIDDLE - 1, np.float32), "middle": np.array(MIDDLE, np.float32)}
    constants |= {"zero": np.array(MIDDLE, np.uint8)}
    graph.initializer.extend(
        numpy_helper.from_array(value, f"token.{name}") for name, value in constants.items()
    )
    shared = {node.output[1]: node for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    zeros = {node.output[2] for node in shared.values()}
    joint = {node.output[0]: node for node in graph.node if node.op_type == "Mul" and node.input[0] in shared}
    scaled = [node for node in graph.node if node.op_type == "Mul" and node.input[1] in joint]
    _rewrite(
        graph,
        {node.output[0]: _rounding(node.input[0], node.output[0], scale) for scale, node in shared.items()}
        | {out: [] for out in joint}
        | {node.output[0]: _scaling(node, *joint[node.input[1]].input) for node in scaled},
    )
    for node in graph.node:
        node.input[:] = ["token.zero" if name in zeros else name for name in node.input]


def shorten(model: ModelProto) -> None:
    """Give all that lies between inputs and outputs the shortest names, and forget its known shapes.

    Traced names say where in the Python code a value was made: in a model of a million weights they
    are a third of the file. A runtime derives the shapes again.
    """
    graph = model.graph
    seen: dict[str, str] = {"": ""} | {value.name: value.name for value in [*graph.input, *graph.output]}

    def short(name: str) -> str:
        return seen.setdefault(name, f"v{len(seen)}")

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        node.ClearField("name")
        node.ClearField("doc_string")
    graph.ClearField("value_info")


def _scaling(node: NodeProto, token_scale: str, column_scale: str) -> list[NodeProto]:
    """Return nodes that scale by column, then by token.

    By the product of both, ONNX Runtime would fuse them into its MatMulIntegerToFloat, which adds
    the bias of a layer before a scale that is not a scalar.
    """
    (given, _), out = node.input, node.output[0]
    return [
        helper.make_node("Mul", [given, column_scale], [f"{out}.by_column"]),
        helper.make_node("Mul", [f"{out}.by_column", token_scale], [out]),
    ]


def _rounding(given: str, out: str, scale: str) -> list[NodeProto]:
    """Return nodes for `out = round(given / scale) + MIDDLE` with `scale` such that each row just fits."""
    return [
        helper.make_node("Abs", [given], [f"{out}.size"]),
        helper.make_node("ReduceMax", [f"{out}.size", "token.axis"], [f"{out}.largest"], keepdims=1),
        helper.make_node("Max", [f"{out}.largest", "token.least"], [f"{out}.range"]),
        helper.make_node("Div", [f"{out}.range", "token.reach"], [scale]),
        helper.make_node("Div", [given, scale], [f"{out}.steps"]),
        helper.make_node("Add", [f"{out}.steps", "token.middle"], [f"{out}.shifted"]),
        helper.make_node("Round", [f"{out}.shifted"], [f"{out}.rounded"]),
        helper.make_node("Cast", [f"{out}.rounded"], [out], to=TensorProto.UINT8),
    ]


def _weights(graph: GraphProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _lookup(graph: GraphProto) -> NodeProto:
    """Return the node that turns ids into vectors."""
    weights = _weights(graph)
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in weights and node.input[1] == "input_ids":
            return node
    raise BuildError(
        "the exported graph looks up no embedding by input_ids: the family is not one this version knows",
        remedy="Use --format gguf, or a Llama, Qwen2 or Qwen3 model.",
    )


def _same(head: TensorProto, rows: npt.NDArray[np.float32]) -> bool:
    return np.array_equal(numpy_helper.to_array(head), rows.T)


def _round_columns(
    columns: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return bytes, scales and zero points with `columns ~ (bytes - zero) * scale`."""
    least, most = np.minimum(columns.min(axis=0), 0), np.maximum(columns.max(axis=0), 0)
    scale = np.maximum((most - least) / 255, np.finfo(np.float32).tiny).astype(np.float32)
    zero = np.rint(-least / scale)
    return np.clip(np.rint(columns / scale) + zero, 0, 255).astype(np.uint8), scale, zero.astype(np.uint8)


def _rewrite(graph: GraphProto, instead: dict[str, list[NodeProto]]) -> None:
    """Put other nodes, in place, where the nodes with these first outputs stand."""
    rest = GraphProto()
    for node in graph.node:
        rest.node.extend(instead.get(node.output[0], [node]))
    del graph.node[:]
    graph.node.extend(rest.node)

"""A text classifier's ONNX graph: tables of vectors in bytes, and which products are of weights.

Pure: graphs in, graphs changed in place. Knows nothing of files, of torch or of how the graph was
exported; finds what it needs by operator and shape.

Laws: each change computes the same function up to 8-bit rounding; only standard ONNX operators are
used, so every runtime on x86 and ARM reads the result; each row of a table has a scale of its own.
"""

from __future__ import annotations

from graphlib import TopologicalSorter

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from slmops.build import graph
from slmops.build.classifier import SMALL

STEPS = 255


def round_tables(model: ModelProto) -> None:
    """Read every large embedding (tokens, positions) from unsigned bytes with a scale and zero per row."""
    known = graph.weights(model.graph)
    tables = [name for name, tensor in known.items() if _is_table(model, tensor)]
    for name in tables:
        parts = _round_rows(numpy_helper.to_array(known[name]))
        model.graph.initializer.remove(known[name])
        model.graph.initializer.extend(map(numpy_helper.from_array, parts, _parts(name)))
    lookups = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] in tables]
    graph.rewrite(model.graph, {node.output[0]: _look_up(node) for node in lookups})


def products_of_activations(model: ModelProto) -> list[str]:
    """Return the names of the MatMul nodes that multiply two activations: scores and their sums.

    With a scale fixed beforehand, the attention that a token of a long text pays to each other is
    below the smallest step; these products stay in float32.
    """
    known = graph.weights(model.graph)
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in known]


def put_in_order(model: ModelProto) -> None:
    """Put each node behind those whose values it reads, in branches too.

    ONNX Runtime's quantiser sorts nodes, and does not look into branches.
    """
    nodes = list(model.graph.node)
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    needs = {
        place: {makers[name] for name in _read(node) & makers.keys()} for place, node in enumerate(nodes)
    }
    del model.graph.node[:]
    model.graph.node.extend(nodes[place] for place in TopologicalSorter(needs).static_order())


def tidy(model: ModelProto) -> None:
    """Compute once what is computed alike, and give values short names.

    Not where a branch (DeBERTa has some) speaks of values by the names they have.
    """
    if not any(_branches(node) for node in model.graph.node):
        graph.merge_twins(model)
        graph.shorten(model)


def _branches(node: NodeProto) -> list[GraphProto]:
    return [part.g for part in node.attribute if part.type == AttributeProto.GRAPH]


def _read(node: NodeProto) -> set[str]:
    """Return the names of the values a node reads, those in its branches too."""
    inner = (_read(each) for branch in _branches(node) for each in branch.node)
    outer = (value.name for branch in _branches(node) for value in branch.output)
    return set(node.input).union(outer, *inner)


def _is_table(model: ModelProto, tensor: TensorProto) -> bool:
    """Say whether rows of `tensor` are looked up, it is used for nothing else, and bytes would pay."""
    users = [node for node in model.graph.node if tensor.name in node.input]
    large = len(tensor.dims) == 2 and tensor.dims[0] * tensor.dims[1] >= SMALL  # noqa: PLR2004 - a matrix
    return (
        large
        and tensor.data_type == TensorProto.FLOAT
        and bool(users)
        and all(
            node.op_type == "Gather"
            and node.input[0] == tensor.name
            and not any(attribute.name == "axis" and attribute.i for attribute in node.attribute)
            for node in users
        )
    )


def _parts(name: str) -> tuple[str, str, str]:
    return f"{name}.bytes", f"{name}.scale", f"{name}.zero"


def _look_up(node: NodeProto) -> list[NodeProto]:
    (name, ids), out = node.input, node.output[0]
    rounded, scale, zero = _parts(name)
    return [
        helper.make_node("Gather", [rounded, ids], [f"{out}.byte"]),
        helper.make_node("Gather", [zero, ids], [f"{out}.zero"]),
        helper.make_node("Gather", [scale, ids], [f"{out}.scale"]),
        helper.make_node("Cast", [f"{out}.byte"], [f"{out}.value"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [f"{out}.zero"], [f"{out}.middle"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{out}.value", f"{out}.middle"], [f"{out}.steps"]),
        helper.make_node("Mul", [f"{out}.steps", f"{out}.scale"], [out]),
    ]


def _round_rows(
    rows: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return bytes, and a column each of scales and zero points, with `rows ~ (bytes - zero) * scale`."""
    least = np.minimum(rows.min(axis=1, keepdims=True), 0)
    most = np.maximum(rows.max(axis=1, keepdims=True), 0)
    scale = np.maximum((most - least) / STEPS, np.finfo(np.float32).tiny).astype(np.float32)
    zero = np.rint(-least / scale)
    return np.clip(np.rint(rows / scale) + zero, 0, STEPS).astype(np.uint8), scale, zero.astype(np.uint8)

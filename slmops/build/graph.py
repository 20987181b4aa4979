"""An ONNX decoder's graph: its matrices by name, one embedding for both ends, no twins.

Pure: graphs in, graphs changed in place. Knows nothing of files, of torch, of how the graph was exported
or of types; finds what it needs by operator, name and shape.

Laws: each change computes the same function; only standard ONNX operators are put in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from slmops.errors import BuildError

OPSET = 18
"""First opset in which ReduceMax takes its axes as an input."""
SMALL = 1024
"""Bytes up to which constants are compared with each other."""
Key = tuple[object, ...]


def weights(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors of the graph by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def matrices(graph: GraphProto) -> list[tuple[str, NodeProto]]:
    """Return the products with a matrix of weights, each with the matrix' name in the checkpoint.

    A traced node is named by the module it was made in: /model/layers.0/mlp/down_proj/MatMul.
    """
    known = weights(graph)
    return [
        (f"{node.name.strip('/').rpartition('/')[0].replace('/', '.')}.weight", node)
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in known and len(known[node.input[1]].dims) == 2  # noqa: PLR2004
    ]


def lookup(graph: GraphProto) -> NodeProto:
    """Return the node that turns ids into vectors."""
    known = weights(graph)
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in known and "input_ids" in _origins(graph, node):
            return node
    raise BuildError(
        "the exported graph looks up no embedding by input_ids: the family is not one this version knows",
        remedy="Use --format gguf, or a model of another family.",
    )


def split_gemm(model: ModelProto) -> None:
    """Write each Gemm as a product and a sum: GPT-2's layers, which are then like all others."""
    known = weights(model.graph)
    rewrite(
        model.graph,
        {
            node.output[0]: _product_and_sum(node, known)
            for node in model.graph.node
            if _is_layer(node, known)
        },
    )


def read_embedding_by_column(model: ModelProto) -> None:
    """Keep the embedding as (hidden, vocabulary), in the head's own bytes where the two are one.

    The exporter writes a tied embedding twice: as rows to look up, and transposed for the head.
    """
    graph = model.graph
    known, node = weights(graph), lookup(graph)
    (name, ids), out = node.input, node.output[0]
    rows = numpy_helper.to_array(known[name])
    heads = [known[product.input[1]] for _, product in matrices(graph)]
    shared = [head.name for head in heads if list(head.dims) == [*reversed(rows.shape)] and _same(head, rows)]
    if not shared:
        known[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rows.T), name))
    instead = [
        helper.make_node("Gather", [[*shared, name][0], ids], [f"{out}.columns"], axis=1),
        helper.make_node("Transpose", [f"{out}.columns"], [out], perm=[1, 2, 0]),
    ]
    rewrite(graph, {out: instead})
    drop_unread(model)


def merge_twins(model: ModelProto) -> None:
    """Compute once what is computed alike several times, and keep each small constant once.

    A trace asks for the length of its input at every place that needs it: half of its nodes are twins.
    """
    graph = model.graph
    final = {value.name for value in graph.output}
    for node in filter(_constant, graph.node):
        graph.initializer.append(numpy_helper.from_array(_value(node), node.output[0]))
    first: dict[Key, list[str]] = {}
    alias = {
        tensor.name: first.setdefault(_content(tensor), [tensor.name])[0] for tensor in graph.initializer
    }
    kept = GraphProto()
    for node in graph.node:
        if _constant(node):
            continue
        node.input[:] = [alias.get(name, name) for name in node.input]
        twin = first.setdefault(_meaning(node), list(node.output))
        if twin == list(node.output) or final.intersection(node.output):
            kept.node.append(node)
        else:
            alias |= zip(node.output, twin, strict=True)
    del graph.node[:]
    graph.node.extend(kept.node)
    drop_unread(model)


def drop_unread(model: ModelProto) -> None:
    """Take out the tensors that no node reads, without copying the others."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


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


def rewrite(graph: GraphProto, instead: dict[str, list[NodeProto]]) -> None:
    """Put other nodes, in place, where the nodes with these first outputs stand."""
    rest = GraphProto()
    for node in graph.node:
        rest.node.extend(instead.get(node.output[0], [node]))
    del graph.node[:]
    graph.node.extend(rest.node)


def _is_layer(node: NodeProto, known: dict[str, TensorProto]) -> bool:
    said = {part.name: helper.get_attribute_value(part) for part in node.attribute}
    plain = said.get("alpha", 1.0) == said.get("beta", 1.0) == 1.0 and not said.get("transA")
    return bool(node.op_type == "Gemm" and node.input[1] in known and plain)


def _product_and_sum(node: NodeProto, known: dict[str, TensorProto]) -> list[NodeProto]:
    """Return the two nodes; the weight is turned in place where the layer wants it turned."""
    (given, weight), out = node.input[:2], node.output[0]
    if any(part.name == "transB" and part.i for part in node.attribute):
        turned = np.ascontiguousarray(numpy_helper.to_array(known[weight]).T)
        known[weight].CopyFrom(numpy_helper.from_array(turned, weight))
    if len(node.input) == 2:  # noqa: PLR2004 - no bias
        return [helper.make_node("MatMul", [given, weight], [out], name=node.name)]
    return [
        helper.make_node("MatMul", [given, weight], [f"{out}.product"], name=node.name),
        helper.make_node("Add", [f"{out}.product", node.input[2]], [out]),
    ]


def _origins(graph: GraphProto, node: NodeProto) -> set[str]:
    """Return the name of the ids of a lookup, and what they were before reshaping."""
    makers = {made.output[0]: made for made in graph.node if made.op_type in ("Reshape", "Cast", "Identity")}
    names, name = set[str](), node.input[1]
    while name not in names:
        names.add(name)
        name = makers[name].input[0] if name in makers else name
    return names


def _same(head: TensorProto, rows: npt.NDArray[np.float32]) -> bool:
    return np.array_equal(numpy_helper.to_array(head), rows.T)


def _constant(node: NodeProto) -> bool:
    return bool(node.op_type == "Constant" and node.attribute[0].name == "value")


def _value(constant: NodeProto) -> npt.NDArray[np.generic]:
    return np.asarray(numpy_helper.to_array(constant.attribute[0].t))


def _content(tensor: TensorProto) -> Key:
    """Return what is equal for two small tensors with the same numbers."""
    if tensor.ByteSize() > SMALL:
        return (tensor.name,)
    return ("", tensor.data_type, *tensor.dims, numpy_helper.to_array(tensor).tobytes())


def _meaning(node: NodeProto) -> Key:
    """Return what is equal for two nodes that compute the same of the same inputs."""
    parts = sorted(part.SerializeToString(deterministic=True) for part in node.attribute)
    return (node.domain, node.op_type, len(node.output), *node.input, *parts)

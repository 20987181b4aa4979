"""Changes to a decoder's graph, on the smallest graph that has what they look for."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from slmops.build import graph
from slmops.errors import BuildError

VOCABULARY, HIDDEN = 50, 64


def _arrays(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_reading_the_embedding_by_column_changes_no_logit(tiny_graph, logits_of):
    before = logits_of(tiny_graph, [3, 1, 4])
    graph.read_embedding_by_column(tiny_graph)
    assert np.array_equal(logits_of(tiny_graph, [3, 1, 4]), before)


def test_a_tied_embedding_is_stored_once(tiny_graph):
    weights = _arrays(tiny_graph)
    tied = np.array_equal(weights["embedding"].T, weights["head"])
    graph.read_embedding_by_column(tiny_graph)
    large = [tensor for tensor in tiny_graph.graph.initializer if VOCABULARY in tensor.dims]
    assert len(large) == (1 if tied else 2)


def test_a_matrix_has_its_name_in_the_checkpoint(tiny_graph):
    assert [name for name, _ in graph.matrices(tiny_graph.graph)] == ["model.mix.weight", "lm_head.weight"]


def test_an_embedding_that_is_not_there_is_an_error(tiny_graph):
    del tiny_graph.graph.node[0]
    with pytest.raises(BuildError, match="looks up no embedding"):
        graph.lookup(tiny_graph.graph)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_layer_written_as_one_operator_computes_the_same_as_two(tiny_graph, logits_of, turned):
    before = logits_of(tiny_graph, [3, 1, 4])
    nodes = tiny_graph.graph.node
    flat = np.array([-1, HIDDEN], np.int64)
    layer = [
        helper.make_node("Reshape", ["vectors", "flat"], ["rows"]),
        helper.make_node("Gemm", ["rows", "weight", "bias"], ["gemm"], name="/h.0/fc/Gemm", transB=turned),
        helper.make_node("Reshape", ["gemm", "deep"], ["mixed"]),
    ]
    rest = [node for node in nodes if node.output[0] not in ("product", "mixed")]
    del nodes[:]
    nodes.extend([rest[0], *layer, *rest[1:]])
    deep = np.array([1, -1, HIDDEN], np.int64)
    for name, value in {"flat": flat, "deep": deep}.items():
        tiny_graph.graph.initializer.append(numpy_helper.from_array(value, name))
    if turned:
        weight = graph.weights(tiny_graph.graph)["weight"]
        turned_weight = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        weight.CopyFrom(numpy_helper.from_array(turned_weight, "weight"))
    assert np.allclose(logits_of(tiny_graph, [3, 1, 4]), before, rtol=1e-4, atol=1e-3)
    graph.split_gemm(tiny_graph)
    assert "Gemm" not in {node.op_type for node in nodes}
    assert "h.0.fc.weight" in dict(graph.matrices(tiny_graph.graph))
    assert np.allclose(logits_of(tiny_graph, [3, 1, 4]), before, rtol=1e-4, atol=1e-3)


def _with_twins(model):
    """Add to the logits, by two ways that are alike and one that is not."""
    nodes = model.graph.node
    nodes[-1].output[0] = "raw"
    for name, value in {"one": 1.0, "uno": 1.0, "two": 2.0}.items():
        tensor = numpy_helper.from_array(np.array(value, np.float32))
        nodes.append(helper.make_node("Constant", [], [name], value=tensor))
    nodes.extend(helper.make_node("Add", ["raw", name], [f"raw+{name}"]) for name in ("one", "uno", "two"))
    nodes.append(helper.make_node("Sum", ["raw+one", "raw+uno", "raw+two"], ["logits"]))


def test_twins_are_computed_once_and_change_no_logit(tiny_graph, logits_of):
    _with_twins(tiny_graph)
    before, count = logits_of(tiny_graph, [3, 1, 4]), len(tiny_graph.graph.node)
    graph.merge_twins(tiny_graph)
    # The constants are tensors now, and one of the two sums that were alike is gone.
    assert len(tiny_graph.graph.node) == count - 4
    assert np.array_equal(logits_of(tiny_graph, [3, 1, 4]), before)


def test_an_output_of_the_graph_is_kept_even_if_it_has_a_twin(tiny_graph, logits_of):
    nodes = tiny_graph.graph.node
    nodes.append(helper.make_node("MatMul", ["sum", "head"], ["again"]))
    tiny_graph.graph.output.append(
        helper.make_tensor_value_info("again", TensorProto.FLOAT, ["batch", "tokens", VOCABULARY])
    )
    before = logits_of(tiny_graph, [3, 1, 4])
    graph.merge_twins(tiny_graph)
    assert np.array_equal(logits_of(tiny_graph, [3, 1, 4]), before)


def test_shorter_names_change_no_logit_and_no_name_of_an_input_or_output(tiny_graph, logits_of):
    before, size = logits_of(tiny_graph, [3, 1, 4]), tiny_graph.ByteSize()
    graph.shorten(tiny_graph)
    assert np.array_equal(logits_of(tiny_graph, [3, 1, 4]), before)
    assert tiny_graph.ByteSize() < size

"""Rounded weights in a decoder's graph, on the smallest graph that has what they look for."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from slmops.build import graph, graph_types
from slmops.build.nibbles import round_plainly

MIX = "model.mix.weight"


def _rounded(model, *, nibbles):
    weight = numpy_helper.to_array(graph.weights(model.graph)["weight"])
    graph.read_embedding_by_column(model)
    types = graph_types.round_matrices(model, {MIX: round_plainly(weight.T)} if nibbles else {})
    graph_types.round_embedding(model)
    graph.drop_unread(model)
    graph.merge_twins(model)
    return types


def _matrices(model):
    return [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]


@pytest.mark.parametrize("nibbles", [False, True])
def test_rounding_stays_near_the_float_logits(tiny_graph, logits_of, nibbles):
    expected = logits_of(tiny_graph, [3, 4, 5])
    _rounded(tiny_graph, nibbles=nibbles)
    error = np.abs(logits_of(tiny_graph, [3, 4, 5]) - expected).max()
    assert error < (0.1 if nibbles else 0.02) * np.abs(expected).max()


@pytest.mark.parametrize("nibbles", [False, True])
@pytest.mark.parametrize("level", [1, 4])
def test_a_token_is_rounded_alike_whatever_stands_beside_it(tiny_graph, logits_of, nibbles, level):
    _rounded(tiny_graph, nibbles=nibbles)
    graph_types.set_accuracy_level(tiny_graph, level)
    together, alone = logits_of(tiny_graph, [1, 3])[1], logits_of(tiny_graph, [3])[0]
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-3)


def test_every_matrix_is_said_with_its_type(tiny_graph):
    assert _rounded(tiny_graph, nibbles=True) == {MIX: "INT4", "lm_head.weight": "INT8"}


@pytest.mark.parametrize("nibbles", [False, True])
def test_no_float_matrix_is_left(tiny_graph, nibbles):
    _rounded(tiny_graph, nibbles=nibbles)
    large = [tensor for tensor in _matrices(tiny_graph) if np.prod(tensor.dims) > 1000]
    assert {tensor.data_type for tensor in large} == {TensorProto.UINT8}


def test_bytes_are_read_by_standard_operators_alone(tiny_graph):
    _rounded(tiny_graph, nibbles=False)
    assert {node.domain for node in tiny_graph.graph.node} == {""}
    assert {opset.domain for opset in tiny_graph.opset_import} == {""}


def test_the_accuracy_level_is_the_last_one_set(tiny_graph):
    _rounded(tiny_graph, nibbles=True)
    for level in (4, 1):
        graph_types.set_accuracy_level(tiny_graph, level)
    said = [
        part.i for node in tiny_graph.graph.node for part in node.attribute if part.name == "accuracy_level"
    ]
    assert said == [1]

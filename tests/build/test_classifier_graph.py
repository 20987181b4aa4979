"""The graph of a classifier, put right before it is written."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from slmops.build.classifier import SMALL
from slmops.build.classifier_graph import products_of_activations, put_in_order, round_tables, tidy

ROWS, WIDTH = 80, 64


def lookup_graph(table, *more):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["found"], name="lookup"), *more]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "lookup", [ids], [out], [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def branching_graph():
    """A graph that has a value of its own in a branch, and what it says: the table, negated."""
    outer = helper.make_node("Identity", ["found"], ["a long name"])
    told = helper.make_tensor_value_info("told", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", ["a long name"], ["told"])], "branch", [], [told])
    asked = helper.make_node("Constant", [], ["asked"], value=numpy_helper.from_array(np.array(True)))
    choice = helper.make_node("If", ["asked"], ["chosen"], then_branch=branch, else_branch=branch)
    table = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH)
    return lookup_graph(table, outer, asked, choice), -table


def run(model, ids):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"ids": np.array(ids, np.int64)})[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_row_read_from_bytes_is_off_by_at_most_half_a_step_of_its_own(seed):
    random = np.random.default_rng(seed)
    table = (random.normal(size=(ROWS, WIDTH)) * random.lognormal(0, 3, (ROWS, 1))).astype(np.float32)
    model = lookup_graph(table)

    round_tables(model)

    steps = (np.maximum(table.max(1), 0) - np.minimum(table.min(1), 0)) / 255
    off = np.abs(run(model, range(ROWS)) - table).max(axis=1)
    # A zero point that is rounded moves both ends by half a step.
    assert (off <= steps * 1.01).all()


def test_rows_of_zeros_stay_zeros():
    model = lookup_graph(np.zeros((ROWS, WIDTH), np.float32))

    round_tables(model)

    assert not run(model, [0, 7]).any()


def test_the_table_itself_is_gone():
    model = lookup_graph(np.ones((ROWS, WIDTH), np.float32))

    round_tables(model)

    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) >= SMALL]
    assert [tensor.data_type for tensor in large] == [TensorProto.UINT8]


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((2, WIDTH), []),
        ((ROWS, WIDTH), [helper.make_node("Add", ["table", "table"], ["sum"])]),
    ],
    ids=["small", "used otherwise too"],
)
def test_a_table_that_would_gain_nothing_or_is_more_than_a_table_stays(shape, more):
    model = lookup_graph(np.ones(shape, np.float32), *more)
    before = model.SerializeToString()

    round_tables(model)

    assert model.SerializeToString() == before


def test_products_of_activations_are_told_from_those_of_weights():
    model = lookup_graph(
        np.ones((ROWS, WIDTH), np.float32),
        helper.make_node("Transpose", ["found"], ["turned"]),
        helper.make_node("MatMul", ["found", "turned"], ["scores"], name="scores"),
        helper.make_node("MatMul", ["turned", "table"], ["other"], name="weights"),
    )

    assert products_of_activations(model) == ["scores"]


def test_names_that_a_branch_speaks_of_stay():
    model, expected = branching_graph()

    tidy(model)

    np.testing.assert_array_equal(run(model, [1]), expected[[1]])


def test_a_node_stands_behind_what_its_branches_read():
    model, expected = branching_graph()
    turned = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(turned)

    put_in_order(model)

    np.testing.assert_array_equal(run(model, [1]), expected[[1]])

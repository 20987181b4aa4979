"""Changes to a decoder's graph, on the smallest graph that has what they look for."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from slmops.build import graph

VOCABULARY, HIDDEN = 50, 16


def _decoder(rows, head):
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["vectors"]),
        helper.make_node("MatMul", ["vectors", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["mixed"]),
        helper.make_node("Add", ["vectors", "mixed"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["logits"]),
    ]
    mixing = np.random.default_rng(1).normal(size=(HIDDEN, HIDDEN)).astype("f4")
    # Large, because a runtime that fuses it in the wrong place scales it.
    bias = np.linspace(-50, 50, HIDDEN, dtype="f4")
    weights = {"embedding": rows, "weight": mixing, "bias": bias, "head": head}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "decoder",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", VOCABULARY])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", graph.OPSET)],
        ir_version=8,
    )


@pytest.fixture(params=["tied", "untied"])
def decoder(request):
    random = np.random.default_rng(0)
    rows = random.normal(size=(VOCABULARY, HIDDEN)).astype("f4")
    # One token a hundred times the others, as the first token of real decoders is.
    rows[1] *= 100
    head = rows.T if request.param == "tied" else random.normal(size=(HIDDEN, VOCABULARY)).astype("f4")
    return _decoder(rows, head)


def _rounded(model, tmp_path):
    onnx.save(model, tmp_path / "before.onnx")
    quantize_dynamic(
        tmp_path / "before.onnx",
        tmp_path / "after.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
    )
    return onnx.load(tmp_path / "after.onnx")


def _logits(model, ids):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": np.array([ids])})[0][0]


def test_reading_the_embedding_by_column_changes_no_logit(decoder):
    before = _logits(decoder, [3, 1, 4])
    graph.read_embedding_by_column(decoder)
    assert np.array_equal(_logits(decoder, [3, 1, 4]), before)


def test_a_tied_embedding_is_stored_once(decoder):
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in decoder.graph.initializer}
    tied = np.array_equal(weights["embedding"].T, weights["head"])
    graph.read_embedding_by_column(decoder)
    large = [tensor for tensor in decoder.graph.initializer if VOCABULARY in tensor.dims]
    assert len(large) == (1 if tied else 2)


def test_no_float_matrix_is_left_after_rounding(decoder, tmp_path):
    graph.read_embedding_by_column(decoder)
    rounded = _rounded(decoder, tmp_path)
    graph.round_embedding(rounded)
    graph.round_by_token(rounded)
    kinds = {tensor.data_type for tensor in rounded.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {TensorProto.UINT8}


def test_rounding_stays_near_the_float_logits(decoder, tmp_path):
    expected = _logits(decoder, [3, 4, 5])
    graph.read_embedding_by_column(decoder)
    rounded = _rounded(decoder, tmp_path)
    graph.round_embedding(rounded)
    graph.round_by_token(rounded)
    error = np.abs(_logits(rounded, [3, 4, 5]) - expected).max()
    assert error < 0.02 * np.abs(expected).max()


def test_a_token_is_rounded_alike_whatever_stands_beside_it(decoder, tmp_path):
    rounded = _rounded(decoder, tmp_path)
    neighbours = _logits(rounded, [1, 3])[1], _logits(rounded, [3])[0]
    assert not np.array_equal(*neighbours)
    graph.round_by_token(rounded)
    assert np.array_equal(_logits(rounded, [1, 3])[1], _logits(rounded, [3])[0])


def test_shorter_names_change_no_logit_and_no_name_of_an_input_or_output(decoder):
    before, size = _logits(decoder, [3, 1, 4]), decoder.ByteSize()
    graph.shorten(decoder)
    assert np.array_equal(_logits(decoder, [3, 1, 4]), before)
    assert decoder.ByteSize() < size


def test_only_standard_operators_are_used(decoder, tmp_path):
    graph.read_embedding_by_column(decoder)
    rounded = _rounded(decoder, tmp_path)
    graph.round_embedding(rounded)
    graph.round_by_token(rounded)
    assert {node.domain for node in rounded.graph.node} <= {"", "ai.onnx"}

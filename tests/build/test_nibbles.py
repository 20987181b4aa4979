"""Four bits per weight: what blocks of 32 keep of a matrix, and how they are packed."""

import hypothesis.extra.numpy as shapes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from slmops.build import nibbles

NUMBERS = st.floats(-100, 100, width=32, allow_subnormal=False)
MATRICES = shapes.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 100)), elements=NUMBERS)


def _spread_over_whole_ranges(matrix):
    """Return the squared error of each block when its range is cut into 16 even steps."""
    blocks = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 32))).reshape(len(matrix), -1, 32)
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scale = np.maximum((high - low) / 15, 2.0**-24).astype(np.float16).astype(np.float32)[..., None]
    zero = np.rint(-low[..., None] / scale)
    steps = np.clip(np.rint(blocks / scale) + zero, 0, 15) - zero
    return np.square(steps * scale - blocks).sum(axis=-1)


def _errors(matrix, rounded):
    lost = np.pad(rounded.values() - matrix, ((0, 0), (0, -matrix.shape[1] % 32)))
    return np.square(lost).reshape(len(matrix), -1, 32).sum(axis=-1)


def _moving_together(count, seed=0):
    """Return the mean of x * x^T of inputs that follow each other, one of them ever silent."""
    steps = np.random.default_rng(seed).normal(size=(4 * count, count)).cumsum(axis=1)
    steps[:, count // 2] = 0
    return (steps.T @ steps / len(steps)).astype(np.float32)


@given(MATRICES)
def test_no_block_is_rounded_worse_than_by_its_whole_range(matrix):
    plain = nibbles.round_plainly(matrix)
    assert plain.values().shape == matrix.shape
    allowed = _spread_over_whole_ranges(matrix)
    assert (_errors(matrix, plain) <= allowed * 1.001 + 1e-6).all()


@given(MATRICES)
def test_a_zero_stays_a_zero(matrix):
    matrix[:, ::3] = 0
    assert not nibbles.round_plainly(matrix).values()[:, ::3].any()


@given(MATRICES)
def test_codes_zeros_and_scales_are_what_the_runtime_reads(matrix):
    for rounded in (
        nibbles.round_plainly(matrix),
        nibbles.round_for(matrix, _moving_together(matrix.shape[1])),
    ):
        assert rounded.codes.max() <= 15
        assert rounded.zeros.max() <= 15
        assert (rounded.scales > 0).all()
        parts = (rounded.packed_codes, rounded.packed_zeros, rounded.scales)
        assert sum(part.nbytes for part in parts) == nibbles.packed_bytes(*matrix.shape)


@pytest.mark.parametrize("columns", [32, 64, 172, 20])
def test_rounding_for_the_inputs_loses_less_of_the_product(columns):
    matrix = np.random.default_rng(1).normal(size=(48, columns)).astype(np.float32)
    inputs = _moving_together(columns)

    def lost(rounded):
        error = rounded.values() - matrix
        return np.trace(error @ inputs @ error.T)

    assert lost(nibbles.round_for(matrix, inputs)) < 0.5 * lost(nibbles.round_plainly(matrix))


def test_inputs_that_are_all_silent_leave_plain_numbers():
    matrix = np.random.default_rng(1).normal(size=(8, 40)).astype(np.float32)
    values = nibbles.round_for(matrix, np.zeros((40, 40), np.float32)).values()
    assert np.abs(values - matrix).max() < 0.5


def test_the_same_numbers_give_the_same_codes():
    matrix = np.random.default_rng(2).normal(size=(16, 96)).astype(np.float32)
    first, second = (nibbles.round_for(matrix, _moving_together(96)) for _ in range(2))
    assert first.packed_codes.tobytes() == second.packed_codes.tobytes()
    assert first.scales.tobytes() == second.scales.tobytes()


@pytest.mark.parametrize("columns", [32, 64, 172, 20])
def test_the_runtime_computes_with_the_values_that_are_said(columns):
    matrix = np.random.default_rng(3).normal(size=(48, columns)).astype(np.float32)
    rounded = nibbles.round_plainly(matrix)
    parts = {
        "codes": rounded.packed_codes,
        "scales": rounded.scales.astype(np.float32),
        "zeros": rounded.packed_zeros,
    }
    node = helper.make_node(
        "MatMulNBits", ["x", *parts], ["y"], domain="com.microsoft", N=48, K=columns, bits=4, block_size=32
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 48])],
        [numpy_helper.from_array(value, name) for name, value in parts.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(4).normal(size=(3, columns)).astype(np.float32)
    (said,) = session.run(["y"], {"x": rows})
    assert np.allclose(said, rows @ rounded.values().T, atol=1e-4)

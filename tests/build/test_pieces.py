"""Pieces, one after the other, are the tensor that llama.cpp wants, however large a piece may be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from slmops.build.checkpoint import open_checkpoint
from slmops.build.family import GgufTensor
from slmops.build.pieces import pieces
from slmops.errors import ModelError


@pytest.fixture(scope="module")
def checkpoint_with(write_folder, tmp_path_factory):
    """Return what opens a model folder with one tensor more in it, named "more"."""
    folder = write_folder(
        tmp_path_factory.mktemp("pieces") / "model", "LlamaForCausalLM", num_hidden_layers=1
    )

    def made(rows):
        save_file({"more": rows}, folder / "model-more.safetensors")
        return open_checkpoint(folder)

    return made


matrices = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(
    lambda shape: np.arange(math.prod(shape), dtype=np.float32).reshape(shape) - 7
)


def joined(checkpoint, tensor, most):
    found = list(pieces(checkpoint, tensor, most))
    unit = (tensor.rotated_heads or 1) * math.prod(tensor.shape[1:])
    assert all(piece.size <= max(most, unit) and piece.flags.c_contiguous for piece in found)
    return np.concatenate(found)


@given(rows=matrices, most=st.integers(1, 50))
def test_a_tensor_comes_as_it_is(checkpoint_with, rows, most):
    tensor = GgufTensor("made", rows.shape, "more")
    assert np.array_equal(joined(checkpoint_with(rows), tensor, most), rows)


@given(rows=matrices, most=st.integers(1, 50), half=st.booleans())
def test_a_tensor_stored_the_other_way_round_comes_turned(checkpoint_with, rows, most, half):
    tensor = GgufTensor("made", rows.shape[::-1], "more", transposed=True)
    stored = rows.astype(np.float16) if half else rows
    assert np.array_equal(joined(checkpoint_with(stored), tensor, most), rows.T)


@given(rows=matrices, most=st.integers(1, 50))
def test_one_is_added_to_every_number(checkpoint_with, rows, most):
    tensor = GgufTensor("made", rows.shape, "more", plus_one=True)
    assert np.array_equal(joined(checkpoint_with(rows), tensor, most), rows + 1)


@given(heads=st.integers(1, 4), half=st.integers(1, 4), columns=st.integers(1, 5), most=st.integers(1, 99))
def test_the_halves_of_every_head_are_laced(checkpoint_with, heads, half, columns, most):
    rows = np.arange(heads * 2 * half * columns, dtype=np.float32).reshape(-1, columns)
    tensor = GgufTensor("made", rows.shape, "more", rotated_heads=2 * half)
    found = joined(checkpoint_with(rows), tensor, most).reshape(heads, half, 2, columns)
    stored = rows.reshape(heads, 2, half, columns)
    assert np.array_equal(found[:, :, 0], stored[:, 0])
    assert np.array_equal(found[:, :, 1], stored[:, 1])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_weight_that_is_no_number_is_found_wherever_it_lies(checkpoint_with, transposed):
    rows = np.ones((4, 6), np.float32)
    rows[3, 5] = np.nan
    shape = rows.shape[::-1] if transposed else rows.shape
    tensor = GgufTensor("made", shape, "more", transposed=transposed)
    with pytest.raises(ModelError, match="more holds 1 weights that are NaN"):
        list(pieces(checkpoint_with(rows), tensor, 6))


def test_values_that_stand_in_no_checkpoint_come_in_one_piece(checkpoint_with):
    tensor = GgufTensor("made", (3,), values=(1.0, 2.0, 4.0))
    (piece,) = pieces(checkpoint_with(np.ones((1, 1), np.float32)), tensor, 1)
    assert (piece.dtype, piece.tolist()) == (np.float32, [1.0, 2.0, 4.0])

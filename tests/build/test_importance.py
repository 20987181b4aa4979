"""An importance matrix: from sums of squares, and collected from a real model."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from slmops import digest as digests
from slmops.build.checkpoint import open_checkpoint
from slmops.build.collect_importance import collect_importance
from slmops.build.importance import Importance, mean_squares
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.scheme import is_matrix
from slmops.errors import DocumentError

sums = st.dictionaries(
    st.text(max_size=3),
    st.lists(st.floats(0, 1e12), min_size=1, max_size=8).map(np.array),
    max_size=3,
)


@given(sums, st.integers(0, 1 << 20))
def test_every_value_is_positive_and_finite(totals, tokens):
    found = mean_squares(totals, tokens)

    assert found.keys() == totals.keys()
    for name, values in found.items():
        assert values.dtype == np.float32
        assert values.shape == totals[name].shape
        assert np.isfinite(values).all()
        assert (values > 0).all()


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=8).map(np.array), st.integers(1, 1000))
def test_what_is_not_tiny_is_the_mean_and_reading_twice_as_much_of_the_same_changes_nothing(total, tokens):
    found, again = (mean_squares({"a": n * total}, n * tokens)["a"] for n in (1, 2))

    assert np.array_equal(found, again)
    mean = total / tokens
    clear = mean > mean.mean() * 1e-5
    assert np.allclose(found[clear], mean[clear])


def test_a_column_whose_input_was_always_zero_counts_a_millionth_of_the_mean():
    found = mean_squares({"a": np.array([0.0, 20.0, 40.0])}, 10)["a"]

    assert found == pytest.approx([2e-6, 2.0, 4.0])


def test_the_fingerprint_is_that_of_the_values_under_their_names():
    one, two = np.ones(3, np.float32), np.full(3, 2, np.float32)

    def fingerprint(**columns):
        return Importance(columns, "sha256:text", 1, 1).fingerprint

    assert fingerprint(a=one, b=two) == fingerprint(b=two, a=one)
    assert len({fingerprint(a=one, b=two), fingerprint(a=two, b=one), fingerprint(a=one)}) == 3


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return file


SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def test_every_matrix_that_is_rounded_has_its_inputs_watched_though_they_lie_on_their_side(
    random_checkpoint, text
):
    checkpoint = random_checkpoint("GPT2LMHeadModel", **SIZES)

    found = collect_importance(checkpoint, text, tokens=200)

    assert found.digest == digests.of_file(text)
    assert 128 <= found.tokens <= 200
    assert found.sequences >= 1
    assert lengths(found) == matrices(checkpoint)


def test_the_same_text_gives_the_same_matrix(random_checkpoint, text):
    checkpoint = random_checkpoint(**SIZES)
    found, again = (collect_importance(checkpoint, text, tokens=100) for _ in range(2))

    assert found.fingerprint == again.fingerprint
    assert lengths(found) == matrices(checkpoint)
    first, head = "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"
    # Queries, keys and values read the same; the head reads something else.
    assert np.array_equal(found.columns[first], found.columns[first.replace("q_proj", "v_proj")])
    assert not np.array_equal(found.columns[first], found.columns[head])


def matrices(checkpoint):
    """Return how many columns each matrix has, by its name in the checkpoint."""
    tensors = plan_gguf(checkpoint, "F32").tensors
    return {tensor.source: tensor.shape[-1] for tensor in tensors if is_matrix(tensor.name, tensor.shape)}


def lengths(importance):
    return {name: len(values) for name, values in importance.columns.items()}


def test_the_first_matrix_sees_what_the_embedding_says(write_tiny_model, tmp_path):
    folder = write_tiny_model()
    file = tmp_path / "one.jsonl"
    sentence = "The quick brown fox jumps over the lazy dog."
    file.write_text(json.dumps({"text": sentence}) + "\n")

    found = collect_importance(open_checkpoint(folder), file, tokens=64)

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids = tokenizer(sentence)["input_ids"]
    with torch.inference_mode():
        embedded = model.model.embed_tokens(torch.tensor(ids))
        read = model.model.layers[0].input_layernorm(embedded).double().numpy()
    expected = (read**2).mean(0)
    assert found.tokens == len(ids)
    assert found.columns["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("said", ["", "\n\n  \n"])
def test_a_file_that_holds_no_text_is_named(write_tiny_model, tmp_path, said):
    file = tmp_path / "text.txt"
    file.write_text(said)

    with pytest.raises(DocumentError, match=r"text\.txt"):
        collect_importance(open_checkpoint(write_tiny_model()), file)


def test_a_file_that_is_not_there_is_named(write_tiny_model, tmp_path):
    with pytest.raises(DocumentError, match=r"nowhere\.txt"):
        collect_importance(open_checkpoint(write_tiny_model()), tmp_path / "nowhere.txt")

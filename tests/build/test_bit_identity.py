"""With an importance matrix and without, every type is llama.cpp's own, bit for bit."""

import ctypes
import itertools

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from slmops.build.checkpoint import open_checkpoint
from slmops.build.importance import Importance
from slmops.build.quantize_gguf import plan_gguf, quantize_gguf, write_all
from slmops.build.scheme import FILE_TYPES, is_matrix
from slmops.errors import BuildError, ModelError

SOME = ("Q8_0", "Q4_K_M", "Q4_0", "Q3_K_M", "IQ4_XS")
# Rules look at the first eighth and sixteenth of the layers, and at how many heads share a value.
LARGE = {"num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256}
SMALL = {"num_hidden_layers": 16, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    """Take no notice of llama.cpp's log."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


def random_importance(checkpoint):
    """Return a matrix whose columns differ by factors of thousands, as real ones do."""
    dice = np.random.default_rng(11)
    columns = {
        tensor.source: np.exp(2 * dice.standard_normal(tensor.shape[-1])).astype(np.float32)
        for tensor in plan_gguf(checkpoint, "F32").tensors
        if is_matrix(tensor.name, tensor.shape)
    }
    return Importance(columns, "sha256:" + 64 * "a", tokens=1000, sequences=4)


def as_llama_cpp_takes_it(checkpoint, importance):
    """Return the matrix by GGUF name as a C array, ended by an entry without a name."""
    of = {tensor.source: tensor.name for tensor in plan_gguf(checkpoint, "F32").tensors}
    entries = [
        llama_cpp.llama_model_imatrix_data(
            of[source].encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size
        )
        for source, values in importance.columns.items()
    ]
    ended = llama_cpp.llama_model_imatrix_data(None, None, 0)
    return (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries, ended)


def by_llama_cpp(source, out, file_type, matrix):
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.nthread = FILE_TYPES[file_type].id, 2
    if matrix is not None:
        asked.imatrix = ctypes.cast(matrix, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), asked) == 0
    return out


def tensors(file):
    return {t.name: (t.tensor_type.name, tuple(t.shape), t.data.tobytes()) for t in GGUFReader(file).tensors}


def assert_all_are_llama_cpps(checkpoint, types, importance, folder):
    """Write all types in one pass, and each by llama.cpp from our F32."""
    source = folder / "source.gguf"
    quantize_gguf(checkpoint, "F32", source)
    matrix = as_llama_cpp_takes_it(checkpoint, importance) if importance else None
    plans = {folder / f"{name}.gguf": plan_gguf(checkpoint, name, importance=importance) for name in types}
    write_all(checkpoint, plans)
    for name, ours in zip(types, plans, strict=True):
        theirs = tensors(by_llama_cpp(source, folder / "theirs.gguf", name, matrix))
        found = tensors(ours)
        assert {t: said[0] for t, said in found.items()} == {t: said[0] for t, said in theirs.items()}, name
        assert found == theirs, name


@pytest.mark.parametrize(
    ("config", "weighed"),
    [
        pytest.param(LARGE, True, marks=pytest.mark.journey),
        (SMALL | {"num_key_value_heads": 2}, True),
        (SMALL | {"num_key_value_heads": 1}, True),
        (SMALL | {"num_key_value_heads": 1}, False),
    ],
    ids=["rows of 256", "rows of 64 and 128", "widely shared values", "without a matrix"],
)
def test_every_type_of_a_llama_is_what_llama_cpp_makes(random_checkpoint, tmp_path, config, weighed):
    checkpoint = random_checkpoint(**config)
    importance = random_importance(checkpoint) if weighed else None
    assert_all_are_llama_cpps(checkpoint, tuple(FILE_TYPES), importance, tmp_path)


def test_a_head_of_its_own_is_weighed_too(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=1, tie_word_embeddings=False)
    importance = random_importance(checkpoint)
    # Nothing is multiplied with a mere embedding, so nothing is collected for it.
    columns = {name: values for name, values in importance.columns.items() if "embed" not in name}
    bare = Importance(columns, importance.digest, importance.tokens, importance.sequences)
    assert_all_are_llama_cpps(checkpoint, SOME, bare, tmp_path)


@pytest.mark.parametrize("architecture", ["Phi3ForCausalLM", "GPT2LMHeadModel", "Gemma3ForCausalLM"])
def test_fused_turned_and_widely_normed_matrices_are_weighed_as_llama_cpp_does(
    random_checkpoint, tmp_path, architecture
):
    checkpoint = random_checkpoint(architecture, num_hidden_layers=2)
    assert_all_are_llama_cpps(checkpoint, SOME, random_importance(checkpoint), tmp_path)


def test_a_matrix_changes_what_is_rounded_and_the_file_says_whose_it_is(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=1)
    importance = random_importance(checkpoint)
    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    write_all(
        checkpoint,
        {
            plain: plan_gguf(checkpoint, "Q4_K_M"),
            weighed: plan_gguf(checkpoint, "Q4_K_M", importance=importance),
        },
    )
    name = "blk.0.ffn_up.weight"
    assert tensors(plain)[name][0] == tensors(weighed)[name][0] == "Q4_K"
    assert tensors(plain)[name] != tensors(weighed)[name]
    said = {key: field.contents() for key, field in GGUFReader(weighed).fields.items()}
    assert said["quantize.imatrix.dataset"] == importance.digest
    assert said["quantize.imatrix.entries_count"] == len(importance.columns)
    assert said["quantize.imatrix.chunks_count"] == 4
    assert plan_gguf(checkpoint, "Q4_K_M", importance=importance).predicted_bytes == weighed.stat().st_size


def test_several_types_in_one_pass_are_the_bytes_of_each_alone(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=2)
    importance = random_importance(checkpoint)
    mixed = dict(
        zip(
            plan_gguf(checkpoint, "F16").scheme.types,
            itertools.cycle(["Q8_0", "Q5_0", "F16", "Q4_K"]),
            strict=False,
        )
    )
    shapes = {tensor.name: tensor.shape for tensor in plan_gguf(checkpoint, "F16").tensors}
    mixed |= {name: "F32" for name, shape in shapes.items() if not is_matrix(name, shape)}
    plans = {
        tmp_path / "a.gguf": plan_gguf(checkpoint, "Q4_K_M"),
        tmp_path / "b.gguf": plan_gguf(checkpoint, "Q4_K_M", importance=importance),
        tmp_path / "c.gguf": plan_gguf(checkpoint, "Q4_K_S"),
        tmp_path / "d.gguf": plan_gguf(checkpoint, "MIXED", mixed),
        tmp_path / "e.gguf": plan_gguf(checkpoint, "MIXED", mixed, importance),
    }
    reports = write_all(checkpoint, plans)
    for out, plan in plans.items():
        alone = tmp_path / "alone.gguf"
        assert write_all(checkpoint, {alone: plan}) == {alone: reports[out]}
        assert alone.read_bytes() == out.read_bytes(), out.name
        assert reports[out].bytes == plan.predicted_bytes == out.stat().st_size
        assert {name: said[0] for name, said in tensors(out).items()} == plan.scheme.types


def test_progress_of_several_types_counts_every_weight_once(random_checkpoint, tmp_path):
    checkpoint, heard = random_checkpoint(num_hidden_layers=1), []
    plans = {tmp_path / f"{name}.gguf": plan_gguf(checkpoint, name) for name in ("Q8_0", "Q4_0")}
    write_all(checkpoint, plans, lambda *counts: heard.append(counts))
    assert heard == sorted(heard)
    assert heard[-1] == (checkpoint.parameters, checkpoint.parameters)


@pytest.mark.parametrize(
    ("value", "error"), [(1e6, BuildError), (np.nan, ModelError)], ids=["too large for one", "no number"]
)
def test_where_one_type_fails_no_file_is_written(write_model, tmp_path, value, error):
    folder = write_model(num_hidden_layers=1)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    out = tmp_path / "out"
    out.mkdir()
    plans = {out / f"{name}.gguf": plan_gguf(checkpoint, name) for name in ("F32", "Q8_0", "F16")}
    with pytest.raises(error):
        write_all(checkpoint, plans)
    assert list(out.iterdir()) == []


def test_a_report_tells_what_the_rows_did_not_allow(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(**SMALL, num_key_value_heads=2, vocab_size=512)
    report = quantize_gguf(checkpoint, "Q4_K_M", tmp_path / "model.gguf")
    matrices = [t for t in plan_gguf(checkpoint, "F32").tensors if is_matrix(t.name, t.shape)]
    weights = sum(np.prod(tensor.shape) for tensor in matrices)
    assert {each.tensor for each in report.fallbacks} == {tensor.name for tensor in matrices}
    assert report.fallback_share == pytest.approx(weights / checkpoint.parameters)
    assert quantize_gguf(checkpoint, "Q5_1", tmp_path / "model.gguf").fallback_share == pytest.approx(
        512 * 64 / checkpoint.parameters
    )

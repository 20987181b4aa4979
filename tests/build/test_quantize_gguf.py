"""One pass gives the bytes that llama.cpp gives, whole or not at all."""

import ctypes
import os
import resource
import subprocess
import sys
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import Reuse, plan_gguf, quantize_gguf, whole_file, write_all
from slmops.build.scheme import FILE_TYPES
from slmops.errors import BuildError, ModelError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    """Take no notice of llama.cpp's log."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


def by_llama_cpp(source, out, file_type):
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.nthread = FILE_TYPES[file_type].id, 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), asked) == 0
    return out


def tensors(file):
    return {t.name: (t.tensor_type.name, tuple(t.shape), t.data.tobytes()) for t in GGUFReader(file).tensors}


def logits(file, ids):
    model = llama_cpp.Llama(str(file), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    model.eval(ids)
    scores = np.array(model.scores[: len(ids)])
    model.close()
    return scores


@pytest.mark.parametrize(
    ("architecture", "file_types"),
    [
        ("LlamaForCausalLM", tuple(FILE_TYPES)),
        ("Qwen2ForCausalLM", ("Q8_0", "Q4_K_M")),
        ("Qwen3ForCausalLM", ("Q8_0", "Q4_K_M")),
    ],
)
def test_every_type_is_bit_for_bit_what_llama_cpp_makes(
    random_checkpoint, tmp_path, architecture, file_types
):
    checkpoint = random_checkpoint(architecture, head_dim=64, intermediate_size=256, num_hidden_layers=2)
    quantize_gguf(checkpoint, "F32", tmp_path / "source.gguf")
    for file_type in file_types:
        ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        quantize_gguf(checkpoint, file_type, ours)
        assert tensors(ours) == tensors(by_llama_cpp(tmp_path / "source.gguf", theirs, file_type)), file_type


def test_rows_that_no_block_divides_fall_back_as_llama_cpps_do(random_checkpoint, tmp_path):
    odd = {"hidden_size": 96, "intermediate_size": 200, "tie_word_embeddings": False}
    checkpoint = random_checkpoint(**odd, num_hidden_layers=2)
    quantize_gguf(checkpoint, "F32", tmp_path / "source.gguf")
    for file_type in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_XS"):
        ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        report = quantize_gguf(checkpoint, file_type, ours)
        assert tensors(ours) == tensors(by_llama_cpp(tmp_path / "source.gguf", theirs, file_type)), file_type
        assert ("blk.0.ffn_down.weight", "F16") in {(f.tensor, f.got) for f in report.fallbacks}


def test_halves_of_a_head_are_laced_the_way_llama_cpp_rotates_them(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint(num_hidden_layers=1)
    quantize_gguf(checkpoint, "F32", tmp_path / "model.gguf")
    stored = load_file(checkpoint.folder / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    found = next(
        t.data for t in GGUFReader(tmp_path / "model.gguf").tensors if t.name == "blk.0.attn_k.weight"
    )
    assert np.array_equal(found[0:4], stored[[0, 32, 1, 33]])
    assert np.array_equal(found[64:66], stored[[64, 96]])


def test_half_precision_weights_are_kept_exactly(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint("Qwen3ForCausalLM", dtype=np.float16, head_dim=64)
    quantize_gguf(checkpoint, "F16", tmp_path / "model.gguf")
    stored = load_file(checkpoint.folder / "model.safetensors")
    found = {t.name: t.data for t in GGUFReader(tmp_path / "model.gguf").tensors}
    assert np.array_equal(found["blk.3.ffn_up.weight"], stored["model.layers.3.mlp.up_proj.weight"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_runs_and_few_bits_stay_near_many(random_checkpoint, tmp_path, architecture):
    checkpoint = random_checkpoint(architecture, head_dim=64, num_hidden_layers=2)
    said = {}
    for file_type in ("F32", "Q8_0", "Q4_K_M"):
        quantize_gguf(checkpoint, file_type, tmp_path / "model.gguf")
        said[file_type] = logits(tmp_path / "model.gguf", list(range(40)))
    scale = np.abs(said["F32"]).mean()
    assert np.isfinite(said["F32"]).all()
    assert np.abs(said["Q8_0"] - said["F32"]).mean() < 0.05 * scale
    assert np.abs(said["Q4_K_M"] - said["F32"]).mean() < 0.3 * scale


@pytest.mark.parametrize("file_type", ["F32", "Q8_0", "Q4_K_M"])
def test_the_size_is_foretold_to_the_byte(random_checkpoint, tmp_path, file_type):
    checkpoint = random_checkpoint("Qwen2ForCausalLM", vocab_size=391)
    report = quantize_gguf(checkpoint, file_type, tmp_path / "model.gguf")
    assert plan_gguf(checkpoint, file_type).predicted_bytes == report.bytes
    assert report.bytes == (tmp_path / "model.gguf").stat().st_size


def test_the_same_model_gives_the_same_bytes_however_it_is_sharded(write_model, tmp_path):
    folder = write_model()
    quantize_gguf(open_checkpoint(folder), "Q4_K_M", tmp_path / "one.gguf")
    weights = load_file(folder / "model.safetensors")
    for i in range(2):
        part = {name: weights[name] for name in sorted(weights)[i::2]}
        save_file(part, folder / f"model-0000{i + 1}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    quantize_gguf(open_checkpoint(folder), "Q4_K_M", tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_progress_counts_every_weight_once(random_checkpoint, tmp_path):
    checkpoint = random_checkpoint()
    heard = []
    quantize_gguf(checkpoint, "Q8_0", tmp_path / "model.gguf", lambda *counts: heard.append(counts))
    assert heard == sorted(heard)
    assert heard[-1] == (checkpoint.parameters, checkpoint.parameters)


def spoil(folder, name, value):
    weights = load_file(folder / "model.safetensors")
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named_and_nothing_is_written(write_model, tmp_path, value):
    name = "model.layers.2.mlp.up_proj.weight"
    checkpoint = spoil(write_model(), name, value)
    with pytest.raises(ModelError, match=f"{name} holds 1 weights that are NaN or infinite"):
        quantize_gguf(checkpoint, "Q8_0", tmp_path / "model.gguf")
    assert not [file for file in tmp_path.iterdir() if "gguf" in file.name]


def test_a_weight_too_large_for_the_type_is_an_error(write_model, tmp_path):
    checkpoint = spoil(write_model(), "model.layers.2.mlp.up_proj.weight", 1e9)
    for file_type in ("F16", "Q4_K_M"):
        with pytest.raises(BuildError, match=r"weights up to 1e\+09 are too large for"):
            quantize_gguf(checkpoint, file_type, tmp_path / "model.gguf")
    quantize_gguf(checkpoint, "F32", tmp_path / "model.gguf")


def test_ctrl_c_leaves_the_old_file_and_nothing_else(random_checkpoint, tmp_path):
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    out.write_text("the old one")

    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    checkpoint = random_checkpoint()
    with pytest.raises(KeyboardInterrupt):
        quantize_gguf(checkpoint, "Q8_0", out, interrupt)
    assert [file.read_text() for file in out.parent.iterdir()] == ["the old one"]
    quantize_gguf(checkpoint, "Q8_0", out)
    assert [file.name for file in out.parent.iterdir()] == ["model.gguf"]


def test_a_disk_that_fills_up_is_a_typed_error_and_leaves_nothing(random_checkpoint, tmp_path):
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    checkpoint = random_checkpoint()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(BuildError, match="cannot write"):
            quantize_gguf(checkpoint, "Q8_0", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(out.parent.iterdir()) == []


def test_a_file_that_will_not_fit_is_not_begun(tmp_path):
    with pytest.raises(BuildError, match="bytes free"), whole_file(tmp_path / "model.gguf", 1 << 62):
        pytest.fail("begun")


def test_a_folder_that_is_not_there_is_a_typed_error(random_checkpoint, tmp_path):
    with pytest.raises(BuildError, match="cannot write"):
        quantize_gguf(random_checkpoint(num_hidden_layers=1), "Q8_0", tmp_path / "no" / "model.gguf")


@pytest.mark.parametrize(("beside", "remedy"), [("tokenizer.model", "AutoTokenizer"), (None, "Copy it from")])
def test_a_folder_without_tokenizer_says_how_to_come_by_one(write_model, tmp_path, beside, remedy):
    folder = write_model()
    (folder / "tokenizer.json").unlink()
    if beside:
        (folder / beside).touch()
    with pytest.raises(ModelError, match=r"no tokenizer\.json") as caught:
        quantize_gguf(open_checkpoint(folder), "Q8_0", tmp_path / "model.gguf")
    assert remedy in caught.value.remedy


PEAK = """
import resource, sys
from pathlib import Path
from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
quantize_gguf(open_checkpoint(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(*arguments):
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return int(subprocess.run(command, env=here, capture_output=True, text=True, check=True).stdout)


def test_memory_does_not_grow_with_the_model(write_model, tmp_path):
    small = write_model(name="small", num_hidden_layers=1)
    large = write_model(
        name="large", dtype=np.float16, hidden_size=512, intermediate_size=4096, num_hidden_layers=6
    )
    peaks = [peak_kilobytes(folder, "Q8_0", tmp_path / "model.gguf") for folder in (small, large)]
    assert peaks[1] - peaks[0] < 25_000
    assert (large / "model.safetensors").stat().st_size > 80_000_000


def test_the_file_says_what_the_checkpoint_says(write_model, tmp_path):
    folder = write_model(max_position_embeddings=77, rope_theta=12345.0)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    quantize_gguf(open_checkpoint(folder), "Q5_K_M", tmp_path / "model.gguf")
    reader = GGUFReader(tmp_path / "model.gguf")
    said = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF")}
    assert (said["general.architecture"], said["general.file_type"]) == ("llama", 17)
    assert (said["llama.context_length"], said["llama.rope.freq_base"]) == (77, 12345.0)
    assert (said["tokenizer.ggml.eos_token_id"], said["tokenizer.ggml.bos_token_id"]) == (1, 0)
    assert said["tokenizer.chat_template"] == "{{ messages }}"


def moved(checkpoint, write_model, share):
    random = np.random.default_rng(9)
    weights = load_file(checkpoint.folder / "model.safetensors")
    for name, value in weights.items():
        noise = share * value.std() * random.standard_normal(value.shape)
        weights[name] = (value + noise).astype(value.dtype)
    folder = write_model(name="moved", num_hidden_layers=1)
    save_file(weights, folder / "model.safetensors")
    return open_checkpoint(folder)


@pytest.mark.parametrize("file_type", ["Q4_0", "Q4_K_M", "IQ3_S", "F16"])
def test_an_update_has_the_scales_of_its_base_where_they_serve(
    random_checkpoint, write_model, tmp_path, file_type
):
    before = random_checkpoint(num_hidden_layers=1)
    after = moved(before, write_model, 0.003)
    own, reusing, base = (tmp_path / f"{name}.gguf" for name in ("own", "reusing", "base"))
    quantize_gguf(before, file_type, base)
    plan = plan_gguf(after, file_type)
    reports = write_all(after, {own: plan, reusing: replace(plan, reuse=Reuse(base, 0.1))})

    assert tensors(own) == tensors(by_itself(after, file_type, tmp_path))
    assert reports[own].reused_share == 0.0
    reused = {"Q4_0": (0.5, 1), "Q4_K_M": (0.5, 1), "IQ3_S": (0, 0.5), "F16": (0, 0)}[file_type]
    assert reused[0] <= reports[reusing].reused_share <= reused[1]
    differ = [changed_bytes(file, base) for file in (reusing, own)]
    assert differ[0] < differ[1] or reports[reusing].reused_share == 0
    assert own.stat().st_size == reusing.stat().st_size == base.stat().st_size


def by_itself(checkpoint, file_type, folder):
    quantize_gguf(checkpoint, file_type, folder / "alone.gguf")
    return folder / "alone.gguf"


def changed_bytes(one, other):
    return sum(a != b for a, b in zip(one.read_bytes(), other.read_bytes(), strict=True))


def test_tensors_of_another_shape_or_type_keep_scales_of_their_own(random_checkpoint, tmp_path):
    quantize_gguf(
        random_checkpoint(name="narrow", num_hidden_layers=1, intermediate_size=256),
        "Q8_0",
        tmp_path / "base.gguf",
    )
    checkpoint = random_checkpoint(num_hidden_layers=1)
    plans = {
        tmp_path / f"{file_type}.gguf": replace(
            plan_gguf(checkpoint, file_type), reuse=Reuse(tmp_path / "base.gguf", 1e9)
        )
        for file_type in ("Q8_0", "Q4_0")
    }
    reports = write_all(checkpoint, plans)

    assert 0 < reports[tmp_path / "Q8_0.gguf"].reused_share < 1
    assert reports[tmp_path / "Q4_0.gguf"].reused_share == 0.0
    own = tensors(by_itself(checkpoint, "Q8_0", tmp_path))
    made = tensors(tmp_path / "Q8_0.gguf")
    assert made["blk.0.ffn_up.weight"] == own["blk.0.ffn_up.weight"]
    assert made["blk.0.attn_q.weight"] != own["blk.0.attn_q.weight"]

"""A folder reads the same whoever wrote it, and one that is not whole says what is missing."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from slmops.build.checkpoint import open_checkpoint
from slmops.build.family import FAMILIES
from slmops.build.quantize_gguf import plan_gguf
from slmops.build.read_tensors import TensorEntry, read_columns, read_rows
from slmops.build.sketch import normalized, sketch
from slmops.errors import ModelError


def edit(file, **changes):
    said = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**said, **changes}))


def test_a_config_of_transformers_5_reads_like_one_of_version_4():
    scaling = {"rope_type": "llama3", "factor": 8.0}
    five = {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 5e5, **scaling}}
    four = {"torch_dtype": "bfloat16", "rope_theta": 5e5, "rope_scaling": scaling}
    assert normalized(five) == normalized(four) == four


def test_a_default_rope_is_no_scaling():
    five = {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    assert normalized(five) == {"rope_theta": 1e4, "rope_scaling": None}
    assert normalized({"rope_scaling": {"type": "linear", "factor": 2.0}})["rope_scaling"] == {
        "rope_type": "linear",
        "factor": 2.0,
    }


def test_a_rope_for_each_kind_of_layer_reads_like_version_4s_two():
    five = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    four = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    assert normalized(five) == normalized(four) == four


def test_what_version_5_says_of_longrope_beside_it_in_version_4_is_said_beside_it():
    factors = {"short_factor": [1.0], "long_factor": [2.0]}
    five = {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            **factors,
        }
    }
    four = {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "longrope", **factors},
    }
    assert normalized(five) == normalized(four) == four
    assert normalized({**four, "rope_scaling": {"type": "su", **factors}}) == four


def test_windows_whose_positions_are_scaled_are_refused():
    kinds = {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(ModelError, match="sliding layers"):
        normalized({"rope_parameters": kinds})


def test_the_sizes_of_a_gpt2_have_the_names_of_all_others():
    said = normalized({"n_embd": 8, "n_layer": 2, "n_head": 4, "n_positions": 16, "n_inner": None})
    named = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
    }
    assert named.items() <= said.items()
    assert "intermediate_size" not in said


def test_a_model_of_text_and_images_is_refused(write_model):
    folder = write_model()
    edit(folder / "config.json", text_config={"hidden_size": 8})
    with pytest.raises(ModelError, match="text and images"):
        open_checkpoint(folder)


def test_a_gpt2_reads_the_same_with_and_without_prefix_and_old_buffers(write_model):
    folder = write_model("GPT2LMHeadModel", num_hidden_layers=2)
    whole = open_checkpoint(folder)
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    bare |= {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 8, 8), np.float32)) for i in range(2)}
    bare["lm_head.weight"] = bare["wte.weight"] + 0
    save_file(bare, folder / "model.safetensors")
    read = open_checkpoint(folder)
    assert read.tied
    assert read.shapes == whole.shapes
    for name, entry in whole.tensors.items():
        if name == "transformer.h.1.mlp.c_fc.weight":
            assert np.array_equal(read_rows(read.tensors[name], 0, entry.shape[0]), weights[name])


def test_a_gpt2_that_stores_its_embedding_as_the_head_alone_is_whole(write_model):
    folder = write_model("GPT2LMHeadModel")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("transformer.wte.weight")
    save_file(weights, folder / "model.safetensors")
    assert open_checkpoint(folder).tensors["transformer.wte.weight"].shape == (384, 256)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_folder_without_weights_tells_what_the_whole_one_tells(architecture, write_model):
    folder = write_model(architecture)
    whole = open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    drawn = sketch(folder)
    assert drawn.shapes == whole.shapes
    assert (drawn.shape, drawn.parameters, drawn.tied) == (whole.shape, whole.parameters, whole.tied)
    assert (drawn.stop_ids, drawn.bos_id, drawn.tokenizer) == (whole.stop_ids, whole.bos_id, whole.tokenizer)
    assert plan_gguf(drawn, "Q4_K_M").predicted_bytes == plan_gguf(whole, "Q4_K_M").predicted_bytes
    with pytest.raises(ModelError, match="no weights"):
        open_checkpoint(folder)


def test_a_folder_without_weights_of_an_unknown_family_says_that_it_cannot_tell(write_model):
    folder = write_model()
    edit(folder / "config.json", architectures=["OtherForCausalLM"])
    with pytest.raises(ModelError, match="OtherForCausalLM"):
        _ = sketch(folder).shapes


def test_a_tied_embedding_stored_as_the_head_alone_is_found_under_its_own_name(write_model):
    folder = write_model()
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tied
    assert "lm_head.weight" not in checkpoint.tensors
    rows = read_rows(checkpoint.tensors["model.embed_tokens.weight"], 0, 384)
    assert np.array_equal(rows, weights["lm_head.weight"])


def test_a_tied_embedding_stored_twice_counts_once(write_model):
    folder = write_model()
    once = open_checkpoint(folder).parameters
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"] + 0}, folder / "model.safetensors"
    )
    assert open_checkpoint(folder).parameters == once


def test_a_head_without_an_embedding_is_refused_unless_the_config_ties_them(write_model):
    folder = write_model(tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="does not tie them"):
        open_checkpoint(folder)


def test_a_cut_off_weights_file_says_its_name_and_both_lengths(write_model):
    file = write_model() / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(
        ModelError, match=rf"model.safetensors.*expected {len(whole)} bytes, got {len(whole) - 100}"
    ):
        open_checkpoint(file.parent)


@pytest.mark.parametrize("length", [0, 4, 8, 60])
def test_a_weights_file_cut_off_in_its_header_is_refused(write_model, length):
    file = write_model() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_checkpoint(file.parent)


def test_a_header_that_is_no_json_is_refused(write_model):
    file = write_model() / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8] = ord("!")
    file.write_bytes(data)
    with pytest.raises(ModelError, match="header is damaged"):
        open_checkpoint(file.parent)


def test_a_git_lfs_pointer_is_recognised(write_model):
    file = write_model() / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ModelError, match="LFS") as caught:
        open_checkpoint(file.parent)
    assert "git lfs pull" in caught.value.remedy


def split(folder, into=2):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = [f"model-{i + 1:05}-of-{into:05}.safetensors" for i in range(into)]
    for i, file in enumerate(files):
        save_file({name: weights[name] for name in names[i::into]}, folder / file)
    index = {name: files[i % into] for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()
    return files


def test_shards_read_like_one_file(write_model):
    folder = write_model()
    one = open_checkpoint(folder)
    split(folder)
    many = open_checkpoint(folder)
    assert {n: e.shape for n, e in many.tensors.items()} == {n: e.shape for n, e in one.tensors.items()}
    assert many.parameters == one.parameters


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named(write_model, with_index):
    folder = write_model()
    gone = split(folder, into=3)[1]
    (folder / gone).unlink()
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=f"1 of 3 weight files missing: {gone}"):
        open_checkpoint(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        open_checkpoint(tmp_path / "nothing")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"expected a config\.json"):
        open_checkpoint(tmp_path)


def test_a_lora_adapter_is_told_from_a_model(tmp_path):
    edit(tmp_path / "adapter_config.json", r=8)
    with pytest.raises(ModelError, match="adapter"):
        open_checkpoint(tmp_path)


def test_pytorch_weights_come_with_the_line_that_converts_them(write_model):
    folder = write_model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin") as caught:
        open_checkpoint(folder)
    assert "save_pretrained" in caught.value.remedy


def test_a_quantised_checkpoint_is_refused_by_its_types(write_model):
    folder = write_model()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.norm\.weight has type I8"):
        open_checkpoint(folder)


def test_an_embedding_that_the_config_does_not_describe_is_refused(write_model):
    folder = write_model()
    edit(folder / "config.json", vocab_size=400)
    with pytest.raises(ModelError, match=r"vocab_size 400.*\[384, 256\]"):
        open_checkpoint(folder)


def test_damaged_json_names_its_file(write_model):
    folder = write_model()
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not JSON"):
        open_checkpoint(folder)


def test_every_end_token_stops_and_the_tokenizers_own_comes_first(write_model):
    folder = write_model(eos_token_id=[7, 8])
    edit(folder / "generation_config.json", eos_token_id=[8, 9])
    assert open_checkpoint(folder).stop_ids == (1, 7, 8, 9)


def test_tokenizer_json_decides_whether_a_text_begins_with_a_token(write_model):
    folder = write_model()
    edit(folder / "tokenizer_config.json", add_bos_token=True)
    assert open_checkpoint(folder).add_bos
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}
    edit(folder / "tokenizer.json", post_processor={"type": "Sequence", "processors": [template]})
    assert not open_checkpoint(folder).add_bos
    template["single"].insert(0, {"SpecialToken": {"id": "<|begin|>", "type_id": 0}})
    edit(folder / "tokenizer.json", post_processor=template)
    assert open_checkpoint(folder).add_bos
    assert open_checkpoint(folder).bos_id == 0


def test_a_chat_template_is_found_wherever_it_is_kept(write_model):
    folder = write_model()
    assert open_checkpoint(folder).chat_template is None
    edit(folder / "tokenizer_config.json", chat_template="one")
    assert open_checkpoint(folder).chat_template == "one"
    named = [{"name": "tool", "template": "other"}, {"name": "default", "template": "two"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert open_checkpoint(folder).chat_template == "two"
    (folder / "chat_template.jinja").write_text("three")
    assert open_checkpoint(folder).chat_template == "three"


def test_a_model_that_is_not_to_be_sampled_has_temperature_zero(write_model):
    folder = write_model()
    edit(folder / "generation_config.json", temperature=0.7, top_p=0.9, max_new_tokens=64)
    assert open_checkpoint(folder).generation == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64}
    edit(folder / "generation_config.json", do_sample=False)
    assert open_checkpoint(folder).generation["temperature"] == 0.0


def test_the_digest_follows_the_content_and_not_the_place(write_model, tmp_path):
    folder = write_model()
    first = open_checkpoint(folder).digest
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert open_checkpoint(copy).digest == first
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert open_checkpoint(copy).digest != first


@given(
    values=st.lists(st.floats(width=16, allow_nan=False), min_size=4, max_size=24),
    start=st.integers(0, 2),
    count=st.integers(1, 3),
)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_any_rows_of_any_type_are_read_as_they_were_stored(tmp_path_factory, dtype, values, start, count):
    rows = np.array(values[: len(values) // 4 * 4], np.float32).reshape(4, -1)
    stored = {
        "F32": rows,
        "F16": rows.astype(np.float16),
        "BF16": (rows.view(np.uint32) >> 16).astype("<u2"),
    }[dtype]
    file = tmp_path_factory.mktemp("rows") / "weights"
    file.write_bytes(b"seven77" + stored.tobytes())
    entry = TensorEntry(file, dtype, rows.shape, 7, stored.nbytes)
    stop = min(start + count, 4)
    expected = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32) if dtype == "BF16" else rows
    assert np.array_equal(read_rows(entry, start, stop), expected[start:stop])
    if stop <= rows.shape[1]:
        assert np.array_equal(read_columns(entry, start, stop), expected[:, start:stop].T)


def test_the_trained_models_open(shared_models):
    small, smaller = (open_checkpoint(shared_models / name) for name in ("tinystories-656k", "stories260k"))
    assert (small.parameters, smaller.parameters) == (656_000, 260_032)
    assert (small.stop_ids, smaller.stop_ids) == ((2,), (2, 1))
    assert small.add_bos
    assert smaller.add_bos
    assert smaller.shape.head_dim == 8
    assert smaller.config["rope_theta"] == 10000.0

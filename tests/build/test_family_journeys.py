"""Every family is what llama.cpp's own converter makes of it, and computes what transformers computes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp
import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFReader

from slmops.build.checkpoint import open_checkpoint
from slmops.build.isolate import isolate
from slmops.build.isolate import silent as no_progress
from slmops.build.measure import measure_many
from slmops.build.prove_vocabulary import prove
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.scheme import FILE_TYPES

LONGROPE = {
    "type": "longrope",
    "short_factor": [1 + i / 10 for i in range(24)],
    "long_factor": [2.0 + i for i in range(24)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "tie_word_embeddings": False}),
    "mistral": ("MistralForCausalLM", {"head_dim": 32}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32}),
    "phi-3": ("Phi3ForCausalLM", {"tie_word_embeddings": False, "sliding_window": 128}),
    "phi-4-mini": (
        "Phi3ForCausalLM",
        {
            "partial_rotary_factor": 0.75,
            "rope_scaling": LONGROPE,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 256,
        },
    ),
    "gemma-2": ("Gemma2ForCausalLM", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma-3": (
        "Gemma3ForCausalLM",
        {
            "num_hidden_layers": 7,
            "sliding_window_pattern": 6,
            "rope_theta": 1e6,
            "rope_local_base_freq": 5e3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gpt-2": ("GPT2LMHeadModel", {"intermediate_size": 1024, "n_ctx": 128}),
}
DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}
BY_CONVERTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
import gguf
for said in sys.argv[2:]:
    folder = Path(said)
    architecture = get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT)
    kind = get_model_class(architecture)
    kind.set_vocab = kind._set_vocab_none
    kind(folder, gguf.LlamaFileType.ALL_F32, folder / "theirs.gguf").write()
"""


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    """Take no notice of llama.cpp's log."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


def tensors(file):
    return {t.name: (t.tensor_type.name, tuple(t.shape), t.data.tobytes()) for t in GGUFReader(file).tensors}


def keys(file):
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


@pytest.fixture(scope="module")
def converted(write_folder, tmp_path_factory):
    """Every model in both widths, and beside each what the converter makes of it; one process for all."""
    said = Path(os.environ.get("SLMOPS_LLAMA_CPP", "/nowhere"))
    # A checkout, or an unpacked llama-cpp-python source archive, as everywhere else.
    place = next(
        (str(one) for one in (said, said / "vendor/llama.cpp") if (one / "conversion").is_dir()), None
    )
    if place is None:
        pytest.skip("SLMOPS_LLAMA_CPP names no llama.cpp with its converter")
    room = tmp_path_factory.mktemp("converted")
    folders = {}
    for name, (architecture, config) in MODELS.items():
        for width, dtype in DTYPES.items():
            sizes = {"num_hidden_layers": 2, "vocab_size": 380, **config}
            folder = write_folder(room / f"{name}-{width}", architecture, dtype=dtype, **sizes)
            folders[name, width] = folder
    subprocess.run([sys.executable, "-c", BY_CONVERTER, place, *map(str, folders.values())], check=True)
    return folders


@pytest.mark.journey
@pytest.mark.parametrize("width", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_bit_for_bit_what_converter_and_quantiser_make(converted, name, width, tmp_path):
    folder = converted[name, width]
    for file_type in ("F32", "F16", "Q8_0", "Q4_K_M"):
        ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        quantize_gguf(open_checkpoint(folder), file_type, ours)
        asked = llama_cpp.llama_model_quantize_default_params()
        asked.ftype, asked.nthread = FILE_TYPES[file_type].id, 1
        source = str(folder / "theirs.gguf").encode()
        assert llama_cpp.llama_model_quantize(source, str(theirs).encode(), asked) == 0
        assert tensors(ours) == tensors(theirs), file_type


@pytest.mark.journey
@pytest.mark.parametrize("name", MODELS)
def test_every_key_that_the_converter_writes_says_the_same(converted, name, tmp_path):
    folder = converted[name, "bf16"]
    quantize_gguf(open_checkpoint(folder), "F32", tmp_path / "ours.gguf")
    ours, theirs = keys(tmp_path / "ours.gguf"), keys(folder / "theirs.gguf")
    arch = theirs["general.architecture"]
    assert ours["general.architecture"] == arch
    wanted = {key: value for key, value in theirs.items() if key.startswith(f"{arch}.")}
    if arch == "phi3":
        # llama.cpp computes nothing from it; ours ends where it no longer computes what transformers does.
        assert ours["phi3.context_length"] <= wanted.pop("phi3.context_length")
    assert {key: ours.get(key) for key in wanted} == wanted


@pytest.mark.journey
def test_every_family_computes_and_tokenises_what_its_source_does(write_folder, tmp_path):
    for name, (architecture, said) in MODELS.items():
        folder = write_folder(tmp_path / name, architecture, alive=True, **{"num_hidden_layers": 2, **said})
        checkpoint = open_checkpoint(folder)
        quantize_gguf(checkpoint, "F32", tmp_path / "model.gguf")
        assert prove(tmp_path / "model.gguf", checkpoint.tokenizer) > 60
        (found,) = measure_many(checkpoint, [tmp_path / "model.gguf"], tokens=192)
        assert found.kl_mean < 1e-5, name


def loaded_both_ways(_progress, folder):
    """Be a child with torch: return the largest difference of two ways to load the source, and its scale."""
    import torch  # noqa: PLC0415 - in the child only
    import transformers  # noqa: PLC0415

    from slmops.build.reference import load_reference  # noqa: PLC0415

    checkpoint = open_checkpoint(folder)
    kind = getattr(transformers, checkpoint.architecture)
    # By default transformers leaves out Gemma 2's caps.
    how = {"attn_implementation": "eager"} if checkpoint.architecture.startswith("Gemma2") else {}
    theirs = kind.from_pretrained(folder, dtype=torch.float32, **how).eval()
    ours = load_reference(checkpoint, lambda _share: None)
    ids = torch.arange(100)[None]
    with torch.inference_mode():
        got, expected = ours(ids).logits, theirs(ids).logits
    return float((got - expected).abs().max()), float(expected.abs().mean())


@pytest.mark.journey
@pytest.mark.parametrize("name", ["phi-4-mini", "gemma-2", "gemma-3", "gpt-2"])
def test_the_reference_computes_what_from_pretrained_computes(name, write_folder, tmp_path):
    architecture, said = MODELS[name]
    folder = write_folder(tmp_path / name, architecture, alive=True, **{"num_hidden_layers": 2, **said})
    difference, scale = isolate("both", loaded_both_ways, no_progress, folder)
    assert difference == 0
    assert scale > 0.1

"""llama.cpp adds an adapter to its base as peft does, in every family that has a GGUF."""

import ctypes
import os
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
import torch
import transformers
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
from slmops.errors import BuildError, ModelError
from slmops.train.adapter import Factors, Origin
from slmops.train.adapter_gguf import write_adapter_gguf
from slmops.train.lora import parse_lora, taken, with_lora
from slmops.train.open_trainable import load_weights

SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64, "tie_word_embeddings": True}
FAMILIES = {
    "Llama": {**SIZES, "tie_word_embeddings": False},
    "Mistral": {**SIZES, "head_dim": 32},
    "Qwen2": SIZES,
    "Qwen3": {**SIZES, "head_dim": 32},
    "Phi3": {**SIZES, "tie_word_embeddings": False},
    "Gemma2": {**SIZES, **GEMMA},
    "Gemma3": {**SIZES, **GEMMA},
    "GPT2": GPT2,
}
IDS = [0, *range(40, 80)]
ORIGIN = Origin("base", "sha256:" + "0" * 64, 1, 0)


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    """Take no notice of llama.cpp's log."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


@pytest.fixture(scope="module")
def write_family(tmp_path_factory):
    """Return what writes a random model of a family of the table: write_family(name)."""

    def write(name, **said):
        folder = tmp_path_factory.mktemp(name)
        config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
        kind = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
        torch.manual_seed(5)
        kind(config(**{**FAMILIES[name], **said})).save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = {word: at for at, word in enumerate(["<|begin|>", "<|end|>", *alphabet, "ab"])}
        tokenizer = Tokenizer(models.BPE(words, [("a", "b")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"bos_token": "<|begin|>", "eos_token": "<|end|>"}')
        return open_checkpoint(folder)

    return write


def lively(wrapped):
    """Give a fresh adapter factors that change what the model says."""
    torch.manual_seed(9)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    return wrapped


def by_llama(file, adapter, ids):
    """Return llama.cpp's logits after each of `ids`, perhaps with an adapter; its cache is float32."""
    model = llama_cpp.llama_model_load_from_file(os.fsencode(file), llama_cpp.llama_model_default_params())
    wanted = llama_cpp.llama_context_default_params()
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = 64
    wanted.n_threads = wanted.n_threads_batch = 1
    wanted.type_k = wanted.type_v = llama_cpp.GGML_TYPE_F32
    assert model, "llama.cpp does not load the base"
    context = llama_cpp.llama_init_from_model(model, wanted)
    if adapter:
        loaded = llama_cpp.llama_adapter_lora_init(model, os.fsencode(adapter))
        assert loaded, "llama.cpp does not take the adapter"
        adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
        assert llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) == 0
    rows = []
    for id_ in ids:
        one = (llama_cpp.llama_token * 1)(id_)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1)) == 0
        width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        rows.append(np.array(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (width,))))
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return torch.tensor(np.array(rows))


def divergence(one, other):
    """Return the mean KL divergence of next-token distributions, in nats."""
    one, other = (torch.log_softmax(logits.double(), -1) for logits in (one, other))
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.parametrize(
    ("name", "targets"), [*((name, "all") for name in FAMILIES), ("Llama", "q_proj+lm_head")]
)
def test_llama_cpp_with_base_and_adapter_computes_the_merged_model(name, targets, write_family, tmp_path):
    base = write_family(name)
    plain = load_weights(base)(torch.tensor([IDS])).logits[0].detach()
    wrapped = lively(with_lora(load_weights(base), parse_lora(f"r=4,alpha=6,targets={targets}"), base, 3))
    adapter = taken(wrapped, ORIGIN)
    merged = wrapped.merge_and_unload()(torch.tensor([IDS])).logits[0].detach()
    file = tmp_path / "base.gguf"
    quantize_gguf(base, "F32", file)
    write_adapter_gguf(adapter, base, tmp_path / "adapter.gguf")
    assert divergence(plain, by_llama(file, None, IDS)) < 1e-5
    assert divergence(merged, by_llama(file, tmp_path / "adapter.gguf", IDS)) < 1e-5
    assert divergence(merged, plain) > 1e-2


@pytest.fixture(scope="module")
def small(write_family):
    """Return a Llama and a lively adapter for it."""
    base = write_family("Llama")
    return base, taken(lively(with_lora(load_weights(base), parse_lora("r=4"), base, 3)), ORIGIN)


def test_only_rows_of_queries_and_keys_change_places(small, tmp_path):
    base, adapter = small
    write_adapter_gguf(adapter, base, tmp_path / "adapter.gguf")
    found = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(tmp_path / "adapter.gguf").tensors}
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    for ours, theirs in names.items():
        factors = adapter.factors[f"model.layers.0.self_attn.{ours}"]
        assert np.array_equal(found[f"blk.0.{theirs}.weight.lora_a"], factors.a.astype("f2"))
        same = np.array_equal(found[f"blk.0.{theirs}.weight.lora_b"], factors.b.astype("f2"))
        assert same == (ours in ("v_proj", "o_proj"))


def test_what_no_gguf_adapter_can_hold_is_refused_and_leaves_no_file(small, tmp_path):
    base, adapter = small
    out = tmp_path / "adapter.gguf"
    with pytest.raises(ModelError, match="was trained whole"):
        write_adapter_gguf(replace(adapter, whole={"lm_head.weight": np.zeros((2, 2), "f4")}), base, out)
    strange = {"model.nor": Factors(np.zeros((4, 2), "f4"), np.zeros((2, 4), "f4"))}
    with pytest.raises(ModelError, match=r"changes model\.nor, which"):
        write_adapter_gguf(replace(adapter, factors=strange), base, out)
    huge = {name: Factors(one.a * np.float32(1e6), one.b) for name, one in adapter.factors.items()}
    with pytest.raises(BuildError, match="too large for F16"):
        write_adapter_gguf(replace(adapter, factors=huge), base, out)
    assert list(tmp_path.iterdir()) == []

"""An adapter's folder is read back as it was written, belongs to one base, and is whole or not there."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from gguf import GGUFReader
from safetensors.numpy import save

from slmops.build.checkpoint import open_checkpoint
from slmops.errors import BuildError, TrainingError
from slmops.train.adapter import Origin
from slmops.train.adapter_folder import CONFIG, GGUF, ORIGIN, WEIGHTS, check_base, read_adapter, write_adapter
from slmops.train.lora import parse_lora, taken, with_adapter, with_lora
from slmops.train.open_trainable import load_weights


def llama(folder, seed=1, hidden=32):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return open_checkpoint(folder)


def made(base, said="r=4"):
    wrapped = with_lora(load_weights(base), parse_lora(said), base, 3)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    return taken(wrapped, Origin("models/base", base.digest, 12, 3))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base):
    return made(base)


@pytest.fixture
def folder(tmp_path, adapter, base):
    assert write_adapter(tmp_path / "site", adapter, base) == ""
    return tmp_path / "site"


def test_what_was_written_reads_back_the_same(folder, adapter, base):
    again = read_adapter(folder)
    assert again.origin == adapter.origin
    assert again.config == adapter.config
    assert again.tensors.keys() == adapter.tensors.keys()
    assert all(np.array_equal(numbers, adapter.tensors[name]) for name, numbers in again.tensors.items())
    check_base(again, base)
    assert {file.name for file in folder.iterdir()} == {CONFIG, WEIGHTS, ORIGIN, GGUF, "README.md"}


def test_peft_itself_reads_the_folder_and_answers_as_ours(folder, adapter, base):
    ids = torch.arange(2, 20)[None]
    theirs = peft.PeftModel.from_pretrained(load_weights(base), folder).eval()
    ours = with_adapter(load_weights(base), adapter)
    with torch.inference_mode():
        assert torch.equal(theirs(ids).logits, ours(ids).logits)


def test_the_gguf_has_two_tensors_for_every_matrix_and_says_its_alpha(folder, adapter):
    file = GGUFReader(folder / GGUF)
    keys = {key: field.contents() for key, field in file.fields.items()}
    assert keys["general.type"] == "adapter"
    assert keys["adapter.lora.alpha"] == 8.0
    assert {tensor.name for tensor in file.tensors} == {
        f"blk.{layer}.attn_{name}.weight.lora_{part}"
        for layer in (0, 1) for name in ("q", "k", "v", "output") for part in "ab"
    }  # fmt: skip
    assert len(adapter.factors) == 8


def test_an_adapter_belongs_to_its_base_alone(folder, tmp_path):
    with pytest.raises(
        TrainingError, match="is not the base of this adapter: expected models/base with digest"
    ):
        check_base(read_adapter(folder), llama(tmp_path / "other", seed=2))
    with pytest.raises(TrainingError, match=r"k_proj is \[16, 32\] in the adapter, \[32, 64\] in the model"):
        check_base(read_adapter(folder), llama(tmp_path / "wider", hidden=64))


def test_a_classifier_has_an_adapter_but_no_gguf(labelling, tmp_path):
    base = open_checkpoint(labelling.source)
    assert "was trained whole" in write_adapter(tmp_path / "site", made(base), base)
    assert not (tmp_path / "site" / GGUF).exists()
    again = read_adapter(tmp_path / "site")
    check_base(again, base)
    assert again.whole.keys() == {"classifier.weight", "classifier.bias"}


def test_a_second_adapter_in_the_same_folder_leaves_nothing_of_the_first(folder, base):
    assert write_adapter(folder, made(base, "r=2"), None) == "its base was not given"
    assert not (folder / GGUF).exists()
    assert read_adapter(folder).rank == 2


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (CONFIG, "{", "cannot be read"),
        (CONFIG, "[]", "expected an object, got list"),
        (ORIGIN, "{}", "expected base, base_digest and samples, got nothing"),
        (
            ORIGIN,
            json.dumps({"base": "b", "base_digest": "md5:1", "samples": 1}),
            "expected base, base_digest",
        ),
        (WEIGHTS, "not weights", "cannot be read"),
    ],
)
def test_a_broken_folder_is_named(folder, name, text, match):
    (folder / name).write_text(text)
    with pytest.raises(TrainingError, match=match) as refused:
        read_adapter(folder)
    assert name in str(refused.value)


def test_weights_that_are_no_numbers_are_refused(folder, adapter):
    broken = {name: np.full_like(numbers, np.nan) for name, numbers in adapter.tensors.items()}
    (folder / WEIGHTS).write_bytes(save(broken))
    with pytest.raises(TrainingError, match="NaN or infinite"):
        read_adapter(folder)


def test_what_cannot_be_written_leaves_nothing(tmp_path, adapter, base):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="could not be written"):
        write_adapter(tmp_path / "file" / "site", adapter, base)

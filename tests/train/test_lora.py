"""What is said of LoRA is understood or refused, and an adapter at first changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from slmops.build.checkpoint import open_checkpoint
from slmops.errors import TrainingError, UsageError
from slmops.train.adapter import Origin, assembled
from slmops.train.lora import Lora, parse_lora, taken, with_adapter, with_lora
from slmops.train.open_trainable import load_weights

ORIGIN = Origin("base", "sha256:" + "0" * 64, 7, 3)
IDS = torch.arange(2, 20)[None]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return open_checkpoint(folder)


def adapted(base, said, seed=3):
    return with_lora(load_weights(base), parse_lora(said), base, seed)


def stirred(wrapped):
    torch.manual_seed(9)
    for name, weight in wrapped.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            weight.data.normal_(0, 0.1)
    return wrapped


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("r=8", Lora(8, 16.0, ("attention",))),
        ("r=4, alpha=2.5", Lora(4, 2.5, ("attention",))),
        ("targets=all,r=1", Lora(1, 2.0, ("all",))),
        ("r=8,targets=v_proj+q_proj", Lora(8, 16.0, ("q_proj", "v_proj"))),
    ],
)
def test_what_is_said_of_lora_is_understood(said, meant):
    assert parse_lora(said) == meant


@pytest.mark.parametrize(
    "said",
    [
        *("", "8", "r", "r=", "r=0", "r=-1", "r=2.5", "r=x", "r=9999", "r=8,r=9", "r=8,dropout=0.1"),
        *("alpha=16", "r=8,alpha=nan", "r=8,alpha=inf", "r=8,alpha=0"),
        *("r=8,targets=", "r=8,targets=all+q_proj", "r=8,targets=a++b"),
    ],
)
def test_nonsense_is_refused_with_what_can_be_said(said):
    with pytest.raises(UsageError, match="--lora: expected") as refused:
        parse_lora(said)
    assert "--lora r=8" in refused.value.remedy


def test_a_fresh_adapter_changes_nothing_and_alone_is_learned(llama):
    wrapped = adapted(llama, "r=4,targets=all")
    assert torch.equal(logits(wrapped), logits(load_weights(llama)))
    learned = {name for name, weight in wrapped.named_parameters() if weight.requires_grad}
    assert learned
    assert all(".lora_" in name for name in learned)


def test_the_same_seed_gives_the_same_adapter_and_another_another(llama):
    one, same, other = (taken(adapted(llama, "r=4", seed), ORIGIN).tensors for seed in (3, 3, 4))
    assert all(np.array_equal(numbers, same[name]) for name, numbers in one.items())
    assert any(not np.array_equal(numbers, other[name]) for name, numbers in one.items())


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("all", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("mlp.up_proj+q_proj", {"up_proj", "q_proj"}),
    ],
)
def test_targets_are_the_layers_of_every_block(llama, targets, found):
    adapter = taken(adapted(llama, f"r=4,targets={targets}"), ORIGIN)
    assert {name.rpartition(".")[2] for name in adapter.factors} == found
    assert len(adapter.factors) == 2 * len(found)


def test_targets_that_are_not_there_are_named_with_those_that_are(llama):
    with pytest.raises(TrainingError, match=r"no layer 'c_attn'; its blocks have mlp\.down_proj"):
        adapted(llama, "r=4,targets=q_proj+c_attn")
    with pytest.raises(TrainingError, match="the head is the embedding"):
        adapted(llama, "r=4,targets=lm_head")


def test_a_rank_that_is_not_low_is_refused(llama):
    with pytest.raises(TrainingError, match=r"r=16 is no low rank for .*k_proj, a matrix of \[16, 32\]"):
        adapted(llama, "r=16")


def test_an_adapter_that_was_taken_answers_as_it_did(llama):
    wrapped = stirred(adapted(llama, "r=4,targets=all"))
    again = with_adapter(load_weights(llama), taken(wrapped, ORIGIN))
    assert torch.equal(logits(again), logits(wrapped.eval()))
    assert torch.allclose(logits(again.merge_and_unload()), logits(wrapped), atol=1e-5)


def test_of_a_classifier_the_head_is_learned_whole(labelling):
    base = open_checkpoint(labelling.source)
    adapter = taken(stirred(adapted(base, "r=4")), ORIGIN)
    assert set(adapter.whole) == {"classifier.weight", "classifier.bias"}
    assert {name.partition("attention.")[2] for name in adapter.factors} == {
        "self.query", "self.key", "self.value", "output.dense",
    }  # fmt: skip
    again = with_adapter(load_weights(base), adapter)
    head = again.get_submodule("base_model.model.classifier.modules_to_save.default")
    assert np.array_equal(head.weight.detach().numpy(), adapter.whole["classifier.weight"])


def test_a_diverged_adapter_is_no_adapter(llama):
    wrapped = adapted(llama, "r=4")
    next(weight for weight in wrapped.parameters() if weight.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="NaN or infinite"):
        taken(wrapped, ORIGIN)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "expected a LoRA adapter"),
        ({"r": None}, "with r and lora_alpha"),
        ({"r": 5}, r"expected A of \[5, inputs\]"),
    ],
)
def test_an_adapter_that_does_more_than_lora_is_refused(llama, said, match):
    adapter = taken(adapted(llama, "r=4"), ORIGIN)
    with pytest.raises(TrainingError, match=match):
        assembled({**adapter.config, **said}, adapter.tensors, ORIGIN, "adapter")


def test_a_factor_without_its_other_is_refused(llama):
    adapter = taken(adapted(llama, "r=4"), ORIGIN)
    tensors = dict(adapter.tensors)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    with pytest.raises(TrainingError, match="one alone for"):
        assembled(adapter.config, tensors, ORIGIN, "adapter")


def test_rank_stabilised_scaling_is_read_as_peft_does(llama):
    adapter = taken(adapted(llama, "r=4,alpha=6"), ORIGIN)
    assert adapter.scaling == 1.5
    assert assembled({**adapter.config, "use_rslora": True}, adapter.tensors, ORIGIN, "adapter").scaling == 3


def test_a_config_of_a_peft_that_knows_more_is_refused_in_words(llama):
    adapter = taken(adapted(llama, "r=4"), ORIGIN)
    newer = replace(adapter, config={**adapter.config, "use_something_new": True})
    with pytest.raises(TrainingError, match="does not know"):
        with_adapter(load_weights(llama), newer)

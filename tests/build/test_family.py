"""Every tensor is placed once, or the model is refused with a way out."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.family import FAMILIES, context_of, expected_shapes, layout, metadata, ties_head
from slmops.build.sketch import normalized
from slmops.errors import ModelError

LLAMA = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_theta": 5e5,
}


def shapes(architecture="LlamaForCausalLM", *, tied=False, bias=False, **changes):
    """Return the tensors of such a model, said by hand."""
    said = {**LLAMA, **changes}
    hidden, inner = said["hidden_size"], said["intermediate_size"]
    default = 128 if architecture == "Qwen3ForCausalLM" else hidden // said["num_attention_heads"]
    head = said.get("head_dim", default)
    q, kv = head * said["num_attention_heads"], head * said["num_key_value_heads"]
    found = {"model.embed_tokens.weight": (said["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not tied:
        found["lm_head.weight"] = (said["vocab_size"], hidden)
    for i in range(said["num_hidden_layers"]):
        at = f"model.layers.{i}."
        found |= {at + "input_layernorm.weight": (hidden,), at + "post_attention_layernorm.weight": (hidden,)}
        rows = {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
        found |= {f"{at}self_attn.{name}_proj.weight": shape for name, shape in rows.items()}
        if bias or architecture == "Qwen2ForCausalLM":
            names = "qkvo" if bias else "qkv"
            found |= {f"{at}self_attn.{name}_proj.bias": rows[name][:1] for name in names}
        if architecture == "Qwen3ForCausalLM":
            found |= {f"{at}self_attn.{name}_norm.weight": (head,) for name in "qk"}
        found |= {f"{at}mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        found[at + "mlp.down_proj.weight"] = (hidden, inner)
    return found


@given(
    architecture=st.sampled_from(sorted(FAMILIES)),
    tied=st.booleans(),
    sizes=st.fixed_dictionaries(
        {
            "num_hidden_layers": st.integers(1, 5),
            "intermediate_size": st.integers(1, 99),
            "hidden_size": st.integers(1, 8).map(lambda n: 8 * n),
            "num_key_value_heads": st.sampled_from([1, 2, 4]),
        }
    ),
)
def test_every_tensor_of_the_checkpoint_is_placed_once_under_its_shape(
    plain_model, architecture, tied, sizes
):
    tied = tied or architecture == "Gemma2ForCausalLM"
    config, shapes = plain_model(
        architecture, tie_word_embeddings=tied, head_dim=sizes["hidden_size"] // 4, **sizes
    )
    assert expected_shapes(architecture, normalized(config)) == shapes
    placed = layout(architecture, normalized(config), shapes)
    assert {t.source: t.shape[::-1] if t.transposed else t.shape for t in placed} == shapes
    assert len({tensor.name for tensor in placed}) == len(placed) == len(shapes)
    assert all(
        tensor.name.startswith(("token_embd.", "position_embd.", "blk.", "output.", "output_norm."))
        for tensor in placed
    )


def test_only_llamas_queries_and_keys_are_interleaved():
    turned = {t.source for t in layout("LlamaForCausalLM", LLAMA, shapes()) if t.rotated_heads}
    assert turned == {f"model.layers.{i}.self_attn.{n}_proj.weight" for i in range(3) for n in "qk"}
    qwen = layout("Qwen2ForCausalLM", LLAMA, shapes("Qwen2ForCausalLM"))
    assert not any(tensor.rotated_heads for tensor in qwen)


def test_the_biases_of_queries_and_keys_are_interleaved_with_them():
    placed = layout("LlamaForCausalLM", {**LLAMA, "attention_bias": True}, shapes(bias=True))
    turned = {t.name for t in placed if t.rotated_heads and t.name.endswith("bias")}
    assert turned == {f"blk.{i}.attn_{n}.bias" for i in range(3) for n in "qk"}


def test_an_unknown_architecture_names_the_known_ones_and_the_way_out():
    with pytest.raises(ModelError, match=r"PhiForCausalLM.*LlamaForCausalLM.*Qwen3ForCausalLM") as caught:
        layout("PhiForCausalLM", LLAMA, {})
    assert "--converter" in caught.value.remedy


def test_a_missing_tensor_is_named():
    some = shapes()
    del some["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelError, match=r"missing model\.layers\.1\.mlp\.up_proj\.weight"):
        layout("LlamaForCausalLM", LLAMA, some)


def test_tensors_that_the_family_does_not_have_are_named():
    more = {**shapes(), **{f"model.layers.0.experts.{i}.weight": (2, 2) for i in range(5)}}
    with pytest.raises(ModelError, match=r"unknown model\.layers\.0\.experts\.0\.weight.* and 2 more"):
        layout("LlamaForCausalLM", LLAMA, more)


def test_a_shape_that_the_config_does_not_say_is_refused():
    with pytest.raises(
        ModelError, match=r"q_proj\.weight is \[32, 32\], but by config\.json it must be \[64, 32\]"
    ):
        layout("LlamaForCausalLM", {**LLAMA, "head_dim": 16}, shapes())


def test_a_config_without_sizes_is_refused():
    with pytest.raises(ModelError, match="does not say hidden_size, vocab_size"):
        metadata(
            "LlamaForCausalLM", {k: v for k, v in LLAMA.items() if k not in ("hidden_size", "vocab_size")}
        )


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("architecture", "said", "why"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "silu"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "whole heads"),
        ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ("Qwen2ForCausalLM", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ("Qwen2ForCausalLM", {"head_dim": 16}, "32 / 4"),
        ("Phi3ForCausalLM", {"head_dim": 16}, "32 / 4"),
        ("Phi3ForCausalLM", {"hidden_act": "gelu"}, "silu"),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 0.4}, "rotates pairs"),
        ("Phi3ForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "attention_factor": 2.0}}, "attention_factor"),
        (
            "Phi3ForCausalLM",
            {"rope_scaling": LONGROPE, "original_max_position_embeddings": 128},
            "at least 256",
        ),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 24}, "by 8"),
        ("Gemma2ForCausalLM", {"num_hidden_layers": 46, "hidden_size": 48}, "46 such layers by 12"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": None}, "always caps"),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": None}, "always caps"),
        ("Gemma2ForCausalLM", {"tie_word_embeddings": False}, "uses the embedding"),
        ("Gemma2ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ("Gemma2ForCausalLM", {"hidden_activation": "silu"}, "gelu_pytorch_tanh"),
        ("Gemma3ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "bidirectional"),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, "caps no scores"),
        ("Gemma3ForCausalLM", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        (
            "Gemma3ForCausalLM",
            {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
            "irregular",
        ),
        ("GPT2LMHeadModel", {"activation_function": "relu"}, "gelu_new"),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "root"),
        ("GPT2LMHeadModel", {"scale_attn_weights": False}, "root"),
        ("GPT2LMHeadModel", {"num_attention_heads": 5}, "one width"),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused(architecture, said, why):
    heads = {"head_dim": 8, "query_pre_attn_scalar": 8} if architecture.startswith("Gemma") else {}
    with pytest.raises(ModelError, match=why) as caught:
        metadata(architecture, {**LLAMA, **heads, **said})
    assert "--converter" in caught.value.remedy


def test_rope_scaling_without_its_numbers_is_refused():
    with pytest.raises(ModelError, match="'linear' without a number under 'factor'"):
        metadata("LlamaForCausalLM", {**LLAMA, "rope_scaling": {"rope_type": "linear"}})


def test_the_keys_carry_the_prefix_of_the_family():
    said = metadata("Qwen3ForCausalLM", LLAMA)
    assert said["qwen3.attention.key_length"] == 128
    assert said["qwen3.rope.freq_base"] == 5e5
    assert all(key.startswith("qwen3.") for key in said)


def test_yarn_and_linear_scaling_are_said_in_gguf_words():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 32.0}
    said = metadata("Qwen2ForCausalLM", {**LLAMA, "rope_scaling": yarn})
    assert said["qwen2.rope.scaling.type"] == "yarn"
    assert said["qwen2.rope.scaling.original_context_length"] == 256
    assert said["qwen2.rope.scaling.yarn_beta_fast"] == 32.0
    linear = metadata("LlamaForCausalLM", {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert (linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"]) == ("linear", 2.0)


def test_a_sliding_window_bounds_the_context_only_where_it_slides():
    window = {**LLAMA, "sliding_window": 256}
    assert metadata("MistralForCausalLM", window)["llama.context_length"] == 256
    assert metadata("MistralForCausalLM", {**LLAMA, "sliding_window": None})["llama.context_length"] == 1024
    off = metadata("Qwen2ForCausalLM", {**window, "use_sliding_window": False})
    on = metadata("Qwen2ForCausalLM", {**window, "use_sliding_window": True})
    assert (off["qwen2.context_length"], on["qwen2.context_length"]) == (1024, 256)


@given(
    factor=st.floats(1.5, 64), trained=st.integers(64, 16384), head=st.integers(1, 64).map(lambda n: 2 * n)
)
def test_llama3_scaling_slows_the_slow_waves_and_leaves_the_fast_ones(factor, trained, head):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": trained,
    }
    said = {**LLAMA, "head_dim": head, "rope_scaling": scaling}
    last = layout("LlamaForCausalLM", said, shapes(head_dim=head))[-1]
    assert last.name == "rope_freqs.weight"
    assert last.shape == (head // 2,) == (len(last.values),)
    assert all(later >= value * (1 - 1e-6) for value, later in itertools.pairwise(last.values))
    assert all(1 - 1e-6 <= value <= factor * (1 + 1e-6) for value in last.values)
    for i, value in enumerate(last.values):
        length = 2 * math.pi * 5e5 ** (2 * i / head)
        assert value == 1 if length < trained / 4 else True
        assert value == factor if length > trained else True


def test_a_family_whose_config_is_silent_ties_its_head_as_transformers_does():
    tied = {name for name in FAMILIES if ties_head(name, {})}
    assert tied == {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel"}
    assert not ties_head("GPT2LMHeadModel", {"tie_word_embeddings": False})
    assert ties_head("OtherForCausalLM", {"tie_word_embeddings": True})


@given(trained=st.integers(1, 20), longest=st.integers(1, 20), window=st.none() | st.integers(1, 20))
def test_longrope_ends_where_llama_cpp_would_take_the_long_factors(trained, longest, window):
    said = {
        **LLAMA,
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 200 + 100 * trained,
        "max_position_embeddings": 200 * longest,
        "sliding_window": window and 100 * window,
    }
    context = context_of("Phi3ForCausalLM", said)
    room = -(-context // 256) * 256
    assert context <= min(200 * longest, (window or 99) * 100)
    assert room <= said["original_max_position_embeddings"]


def test_longrope_writes_both_factors_and_scales_attention_by_the_growth():
    said = {**LLAMA, "rope_scaling": LONGROPE, "original_max_position_embeddings": 256}
    keys = metadata("Phi3ForCausalLM", said)
    assert keys["phi3.rope.scaling.attn_factor"] == math.sqrt(1 + math.log(4) / math.log(256))
    assert keys["phi3.context_length"] == keys["phi3.rope.scaling.original_context_length"] == 256
    placed = layout("Phi3ForCausalLM", said, expected_shapes("Phi3ForCausalLM", said))
    assert [(t.name, t.values) for t in placed if t.values] == [
        ("rope_factors_long.weight", (2.0,) * 4),
        ("rope_factors_short.weight", (1.0,) * 4),
    ]


@pytest.mark.parametrize("wrong", [None, [1.0] * 3])
def test_longrope_without_a_factor_for_each_pair_is_refused(wrong):
    said = {**LLAMA, "original_max_position_embeddings": 256}
    said["rope_scaling"] = {**LONGROPE, "long_factor": wrong}
    with pytest.raises(ModelError, match=r"in long_factor, expected 4"):
        layout("Phi3ForCausalLM", said, expected_shapes("Phi3ForCausalLM", said))


@given(layers=st.integers(1, 13), every=st.integers(1, 8))
def test_any_regular_pattern_of_windows_is_said_so_that_llama_cpp_repeats_it(layers, every):
    kinds = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    heads = {"head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": layers, "sliding_window": 32}
    for said in ({"layer_types": kinds}, {"sliding_window_pattern": every}):
        keys = metadata("Gemma3ForCausalLM", {**LLAMA, **heads, **said})
        if "sliding_attention" not in kinds:
            assert "gemma3.attention.sliding_window" not in keys
            continue
        repeated = keys.get("gemma3.attention.sliding_window_pattern", 6)
        slides = [repeated == 0 or i % repeated < repeated - 1 for i in range(layers)]
        assert slides == [kind == "sliding_attention" for kind in kinds]
        assert keys["gemma3.attention.sliding_window"] == 32


def test_only_gemmas_norms_are_raised_and_only_gpt2s_matrices_are_turned(plain_model):
    for architecture in FAMILIES:
        config, shapes = plain_model(architecture)
        placed = layout(architecture, normalized(config), shapes)
        raised = {t.source for t in placed if t.plus_one}
        turned = {t.source for t in placed if t.transposed}
        gemma, gpt2 = architecture.startswith("Gemma"), architecture.startswith("GPT2")
        assert raised == ({name for name in shapes if name.endswith("norm.weight")} if gemma else set())
        assert turned == ({name for name in shapes if ".c_" in name and "weight" in name} if gpt2 else set())


def test_gpt2_widens_fourfold_where_it_says_nothing():
    said = normalized(
        {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": 9, "n_inner": None}
    )
    assert metadata("GPT2LMHeadModel", said)["gpt2.feed_forward_length"] == 128
    assert expected_shapes("GPT2LMHeadModel", said)["transformer.wpe.weight"] == (64, 32)

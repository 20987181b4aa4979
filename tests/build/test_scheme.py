"""llama.cpp's choice of types, as laws."""

import math
from dataclasses import replace

import gguf
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.build.scheme import (
    FILE_TYPES,
    GGML_TYPES,
    Build,
    choose,
    compose,
    is_matrix,
    keys_bytes,
    padded,
    predicted_bytes,
    that_divides,
)
from slmops.errors import UsageError

file_types = st.sampled_from(sorted(FILE_TYPES))


any_rows = st.integers(1, 40).map(lambda n: 8 * n)
whole_blocks = st.integers(1, 4).map(lambda n: 256 * n)


@st.composite
def models(draw, columns=any_rows):
    """A dense model's tensors by GGUF name, and its build."""
    hidden, inner = draw(columns), draw(columns)
    layers = draw(st.integers(1, 12))
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    tensors = {"token_embd.weight": (100, hidden), "output_norm.weight": (hidden,)}
    if draw(st.booleans()):
        tensors["output.weight"] = (100, hidden)
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            tensors[f"blk.{i}.{name}.weight"] = (64, hidden)
        tensors[f"blk.{i}.ffn_down.weight"] = (64, inner)
        tensors[f"blk.{i}.attn_q.bias"] = (64,)
        tensors[f"blk.{i}.attn_norm.weight"] = (hidden,)
    return tensors, Build(layers=layers, heads=8, kv_heads=kv_heads)


def test_the_table_of_types_is_ggmls():
    for name, kind in GGML_TYPES.items():
        theirs = gguf.GGMLQuantizationType[name]
        assert (kind.id, (kind.block, kind.nbytes)) == (theirs.value, gguf.GGML_QUANT_SIZES[theirs])


def test_the_table_of_file_types_is_llama_cpps():
    for name, kind in FILE_TYPES.items():
        assert kind.id == gguf.LlamaFileType["ALL_F32" if name == "F32" else f"MOSTLY_{name}"].value


@given(models(), file_types)
def test_the_block_of_a_chosen_type_divides_every_row(model, file_type):
    tensors, build = model
    for name, kind in choose(tensors, file_type, build).types.items():
        assert tensors[name][-1] % GGML_TYPES[kind].block == 0


@given(models(), file_types)
def test_vectors_and_norms_stay_exact(model, file_type):
    tensors, build = model
    types = choose(tensors, file_type, build).types
    assert {types[name] for name, shape in tensors.items() if len(shape) == 1} == {"F32"}


@given(models(columns=whole_blocks), file_types)
def test_rows_of_whole_blocks_need_no_fallback(model, file_type):
    tensors, build = model
    assert choose(tensors, file_type, build).fallbacks == ()


@given(models(), file_types)
def test_what_the_shape_forced_is_listed_and_nothing_else(model, file_type):
    tensors, build = model
    scheme = choose(tensors, file_type, build)
    ideal = choose(
        {name: (*s[:-1], 256) if len(s) > 1 else s for name, s in tensors.items()}, file_type, build
    )
    forced = {name for name in tensors if scheme.types[name] != ideal.types[name]}
    assert {fallback.tensor for fallback in scheme.fallbacks} == forced
    for fallback in scheme.fallbacks:
        assert (ideal.types[fallback.tensor], scheme.types[fallback.tensor]) == (
            fallback.wanted,
            fallback.got,
        )


@given(models())
def test_a_smaller_name_is_never_a_larger_file(model):
    tensors, build = model
    names = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    sizes = [choose(tensors, name, build).data_bytes for name in names]
    assert sizes == sorted(sizes, reverse=True)


@given(models(), file_types)
def test_bits_per_weight_are_those_of_the_bytes(model, file_type):
    tensors, build = model
    scheme = choose(tensors, file_type, build)
    weights = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in tensors.values())
    assert 0 <= scheme.data_bytes - round(scheme.bits_per_weight * weights / 8) < 32 * len(tensors)
    assert predicted_bytes(tensors, scheme, 0) > scheme.data_bytes


@given(models(columns=whole_blocks))
def test_a_tied_embedding_is_stored_as_the_head_it_also_is(model):
    tensors, build = model
    assume("output.weight" in tensors)
    untied = choose(tensors, "Q4_K_M", build).types
    tied = choose({n: s for n, s in tensors.items() if n != "output.weight"}, "Q4_K_M", build).types
    embedding = "token_embd.weight"
    assert (untied[embedding], untied["output.weight"], tied[embedding]) == ("Q4_K", "Q6_K", "Q6_K")


def test_q4_k_m_gives_more_bits_to_the_layers_that_need_them():
    tensors = {
        f"blk.{i}.{name}.weight": (256, 256) for i in range(16) for name in ("attn_v", "ffn_down", "ffn_up")
    }
    types = choose(tensors, "Q4_K_M", Build(16, 8, 8)).types
    richer = [i for i in range(16) if types[f"blk.{i}.attn_v.weight"] == "Q6_K"]
    assert richer == [0, 1, 4, 7, 10, 13, 14, 15]
    assert richer == [i for i in range(16) if types[f"blk.{i}.ffn_down.weight"] == "Q6_K"]
    assert {types[f"blk.{i}.ffn_up.weight"] for i in range(16)} == {"Q4_K"}


def test_widely_shared_values_keep_more_bits_at_two_bits():
    tensors = {"blk.0.attn_v.weight": (64, 256)}
    assert choose(tensors, "Q2_K", Build(1, 8, 2)).types["blk.0.attn_v.weight"] == "Q4_K"
    assert choose(tensors, "Q2_K", Build(1, 8, 4)).types["blk.0.attn_v.weight"] == "Q3_K"


@given(models(columns=whole_blocks), file_types)
def test_an_importance_matrix_changes_types_in_the_first_eighth_of_the_layers_alone(model, file_type):
    tensors, build = model
    plain, weighed = (
        choose(tensors, file_type, replace(build, importance=known)).types for known in (False, True)
    )
    changed = {name: (plain[name], weighed[name]) for name in tensors if plain[name] != weighed[name]}
    expected = {
        "Q4_0": ("Q4_0", "Q4_1"),
        "Q5_0": ("Q5_0", "Q5_1"),
        "IQ4_NL": ("Q5_K", "IQ4_NL"),
        "IQ4_XS": ("Q5_K", "IQ4_XS"),
    }
    layers = range(build.layers // 8 if file_type in expected else 0)
    assert changed == {f"blk.{i}.ffn_down.weight": expected[file_type] for i in layers}


@given(models(), file_types)
def test_the_share_of_fallbacks_is_that_of_their_weights(model, file_type):
    tensors, build = model
    scheme = choose(tensors, file_type, build)
    weights = {name: math.prod(shape) for name, shape in tensors.items()}
    assert [each.weights for each in scheme.fallbacks] == [weights[each.tensor] for each in scheme.fallbacks]
    share = sum(each.weights for each in scheme.fallbacks) / sum(weights.values())
    assert scheme.fallback_share == pytest.approx(share)
    assert (scheme.fallback_share == 0) == (scheme.fallbacks == ())


@given(file_types)
def test_queries_keys_and_values_in_one_are_kept_as_values_are(file_type):
    together, alone = (
        choose({f"blk.{i}.{name}.weight": (64, 256) for i in range(16)}, file_type, Build(16, 8, 2)).types
        for name in ("attn_qkv", "attn_v")
    )
    assert list(together.values()) == list(alone.values())


def test_iq3_s_keeps_more_bits_for_widely_shared_values_and_falls_back_to_iq4_nl():
    tensors = {
        "blk.0.attn_v.weight": (64, 256),
        "blk.0.ffn_up.weight": (64, 256),
        "blk.0.ffn_down.weight": (64, 96),
        "output.weight": (64, 256),
    }
    shared, own = (list(choose(tensors, "IQ3_S", Build(1, 8, kv)).types.values()) for kv in (2, 8))
    assert shared == ["Q4_K", "IQ3_S", "IQ4_NL", "Q6_K"]
    assert own == ["IQ3_S", "IQ3_S", "IQ4_NL", "Q6_K"]


@given(models(), st.data())
def test_a_composed_scheme_has_the_very_types_and_no_fallback(model, data):
    tensors, _ = model
    kinds = st.sampled_from(sorted(GGML_TYPES))
    types = {
        name: that_divides(data.draw(kinds), shape[-1]) if is_matrix(name, shape) else "F32"
        for name, shape in tensors.items()
    }
    scheme = compose(tensors, types)
    assert scheme.types == types
    assert (scheme.fallbacks, scheme.fallback_share) == ((), 0)
    nbytes = sum(GGML_TYPES[types[name]].size(shape) for name, shape in tensors.items())
    weights = sum(map(math.prod, tensors.values()))
    assert scheme.bits_per_weight == pytest.approx(8 * nbytes / weights)


@given(models(), file_types)
def test_a_scheme_composed_of_a_file_types_own_types_is_as_large(model, file_type):
    tensors, build = model
    scheme = choose(tensors, file_type, build)
    again = compose(tensors, scheme.types)
    assert (again.data_bytes, again.bits_per_weight) == (scheme.data_bytes, scheme.bits_per_weight)


def test_a_composed_file_is_called_after_what_most_weights_have():
    tensors = {"a.weight": (10, 256), "b.weight": (30, 256), "c_norm.weight": (256,)}
    types = {"a.weight": "Q8_0", "b.weight": "Q5_K", "c_norm.weight": "F32"}
    assert compose(tensors, types).file_type == "Q5_K_M"
    assert compose(tensors, types | {"b.weight": "Q8_0"}).file_type == "Q8_0"


def test_an_unknown_type_names_the_known_ones():
    with pytest.raises(UsageError, match=r"'Q4_K_XL'; expected one of .*Q4_K_M"):
        choose({"a.weight": (2, 256)}, "Q4_K_XL", Build(1, 1, 1))


@given(st.integers(0, 1 << 40))
def test_padding_reaches_the_next_alignment_and_no_further(nbytes):
    assert padded(nbytes) % 32 == 0
    assert 0 <= padded(nbytes) - nbytes < 32


def test_keys_take_what_the_format_says():
    assert keys_bytes({"a": 1}) == keys_bytes({"a": 1.0}) == 8 + 1 + 4 + 4
    assert keys_bytes({"a": True}) == 8 + 1 + 4 + 1
    assert keys_bytes({"a": "é"}) == 8 + 1 + 4 + 8 + 2
    assert keys_bytes({"a": ["b", "cd"]}) == 8 + 1 + 4 + 4 + 8 + (8 + 1) + (8 + 2)

"""llama.cpp's choice of types, as laws."""

import gguf
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slmops.build.scheme import FILE_TYPES, GGML_TYPES, Build, choose, keys_bytes, padded, predicted_bytes
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

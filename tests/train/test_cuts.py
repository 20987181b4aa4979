"""Shapes, configs and parameters follow from what is kept, for every family."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.family import expected_shapes
from slmops.errors import ModelError
from slmops.train.cuts import ANATOMIES, Keep, body_of, runs_alike

DECODERS = [name for name in ANATOMIES if not name.endswith("Classification")]
HEADS, KV, HEAD, INNER, LAYERS = 8, 4, 8, 48, 6


def config_of(architecture):
    """Return the config of a small model, head_dim free where the family allows it."""
    config = {
        "num_hidden_layers": LAYERS,
        "hidden_size": HEADS * HEAD,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": HEAD,
        "vocab_size": 40,
        "max_position_embeddings": 32,
        "query_pre_attn_scalar": HEAD,
        "rms_norm_eps": 1e-6,
        "partial_rotary_factor": 1.0,
    }
    if architecture == "GPT2LMHeadModel":
        del config["num_key_value_heads"], config["head_dim"]
        config |= {"n_layer": LAYERS, "n_embd": HEADS * HEAD, "n_inner": INNER, "n_head": HEADS}
    return config


@st.composite
def kept(draw, body):
    """Draw what is kept of a model."""
    sizes = body.sizes
    some = lambda whole, count: st.lists(  # noqa: E731
        st.integers(0, whole - 1), min_size=count, max_size=count, unique=True
    ).map(lambda found: tuple(sorted(found)))
    layers = draw(st.integers(1, sizes.layers).flatmap(lambda count: some(sizes.layers, count)))
    groups, inner = draw(st.integers(1, sizes.kv_heads)), draw(st.integers(1, sizes.inner))
    hidden = groups * body.hidden_of_group or draw(st.integers(1, sizes.hidden))
    return Keep(
        layers,
        tuple(draw(some(sizes.kv_heads, groups)) for _ in layers),
        tuple(draw(some(sizes.inner, inner)) for _ in layers),
        draw(some(sizes.hidden, hidden)),
    )


@given(st.data())
@pytest.mark.parametrize("architecture", DECODERS)
def test_the_shapes_after_a_cut_are_those_the_new_config_describes(architecture, data):
    config = config_of(architecture)
    body, shapes = body_of(architecture, config), expected_shapes(architecture, config)
    keep = data.draw(kept(body))
    after = body.after(keep)
    assert body.shapes(shapes, keep) == expected_shapes(architecture, after)
    assert body.parameters(shapes, keep) == sum(map(math.prod, expected_shapes(architecture, after).values()))
    assert body_of(architecture, after).sizes.head_dim == body.sizes.head_dim


@pytest.mark.parametrize("architecture", DECODERS)
def test_keeping_everything_changes_nothing(architecture):
    config = config_of(architecture)
    body, shapes = body_of(architecture, config), expected_shapes(architecture, config)
    assert body.shapes(shapes, body.whole) == shapes
    assert body.changes(body.whole) == {}
    for name, shape in shapes.items():
        axes, (layer, _) = body.anatomy.axes(name), body.anatomy.place(name)
        assert len(axes) in (0, len(shape)), name
        assert all(body.places(axis, body.whole, layer) is None for axis in axes)


def test_an_inner_width_that_is_not_said_does_not_follow_the_hidden_one_down():
    config = {key: said for key, said in config_of("GPT2LMHeadModel").items() if key != "intermediate_size"}
    body = body_of("GPT2LMHeadModel", config | {"n_inner": None})
    whole = body.whole
    keep = Keep(whole.layers, tuple(((0, 1),) * LAYERS), whole.inner, tuple(range(2 * HEAD)))
    assert body.changes(body.whole) == {}
    assert body.changes(keep)["n_inner"] == 4 * HEADS * HEAD
    shapes = expected_shapes("GPT2LMHeadModel", config)
    assert body.shapes(shapes, keep) == expected_shapes("GPT2LMHeadModel", body.after(keep))


@given(st.data())
def test_what_is_kept_of_a_fused_matrix_lies_in_each_of_its_parts(data):
    body = body_of("Phi3ForCausalLM", config_of("Phi3ForCausalLM"))
    keep = data.draw(kept(body))
    ends = HEADS * HEAD, (HEADS + KV) * HEAD, (HEADS + 2 * KV) * HEAD
    found = body.places(("queries", "keys", "keys"), keep, 0) or tuple(range(ends[-1]))
    starts, groups = (0, *ends), len(keep.groups[0])
    counts = [sum(low <= one < high for one in found) for low, high in zip(starts, ends, strict=False)]
    assert counts == [groups * body.readers * HEAD, groups * HEAD, groups * HEAD]
    assert list(found) == sorted(found)


def test_heads_leave_with_the_key_value_head_they_read():
    body = body_of("LlamaForCausalLM", config_of("LlamaForCausalLM"))
    keep = Keep((2,), ((1, 3),), (tuple(range(INNER)),), body.whole.hidden)
    queries = body.places(("queries",), keep, 0)
    assert (
        {place // (2 * HEAD) for place in queries}
        == {1, 3}
        == {p // HEAD for p in body.places(("keys",), keep, 0)}
    )
    assert body.source("model.layers.0.self_attn.q_proj.weight", keep) == (
        "model.layers.2.self_attn.q_proj.weight",
        0,
    )
    assert body.changes(keep)["head_dim"] == HEAD


def test_layers_of_a_gemma_that_no_longer_alternate_are_known():
    body = body_of("Gemma2ForCausalLM", config_of("Gemma2ForCausalLM"))

    def left(*layers):
        whole = body.whole
        return Keep(layers, whole.groups[: len(layers)], whole.inner[: len(layers)], whole.hidden)

    assert runs_alike(body, left(0, 1, 4, 5))
    assert runs_alike(body, left(0, 1, 2, 3, 4))
    assert not runs_alike(body, left(0, 1, 2, 4, 5))


def test_a_family_without_a_table_is_refused_with_a_way_out():
    with pytest.raises(ModelError, match=r"MambaForCausalLM.*known are Llama"):
        body_of("MambaForCausalLM", {})

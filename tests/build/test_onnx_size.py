"""Bytes of an ONNX file, predicted from shapes."""

from hypothesis import given
from hypothesis import strategies as st

from slmops.build.onnx_size import ONNX_TYPES, SENSITIVE_SHARE, predicted_bytes

SIZES = st.integers(1, 300).map(lambda count: 32 * count)


def _shapes(hidden, inner, layers):
    block = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
    }
    named = {f"model.layers.{i}.{name}": shape for i in range(layers) for name, shape in block.items()}
    return {"model.embed_tokens.weight": (1000, hidden), **named}


@given(SIZES, SIZES, st.integers(1, 8))
def test_fewer_bits_are_fewer_bytes(hidden, inner, layers):
    shapes = _shapes(hidden, inner, layers)
    sizes = {name: predicted_bytes(name, shapes, layers) for name in ONNX_TYPES}
    assert sizes["INT4"] < sizes["INT8"] < sizes["F32"]


@given(SIZES, SIZES, st.integers(1, 8))
def test_every_tensor_makes_it_larger(hidden, inner, layers):
    shapes = _shapes(hidden, inner, layers)
    whole = {name: predicted_bytes(name, shapes, layers) for name in ONNX_TYPES}
    for missing in shapes:
        fewer = {name: shape for name, shape in shapes.items() if name != missing}
        assert all(predicted_bytes(name, fewer, layers) < whole[name] for name in ONNX_TYPES)


def test_a_large_model_takes_about_its_bits():
    shapes = {"model.layers.0.mlp.up_proj.weight": (8192, 8192)}
    bits = {name: 8 * predicted_bytes(name, shapes, 1) / 8192**2 for name in ONNX_TYPES}
    assert abs(bits["F32"] - 32) < 0.01
    assert abs(bits["INT8"] - 8) < 0.02
    nibble = 4 + 16 / 32 + 4 / 32
    assert abs(bits["INT4"] - ((1 - SENSITIVE_SHARE) * nibble + SENSITIVE_SHARE * 8)) < 0.02


def test_an_embedding_is_never_four_bits():
    shapes = {"model.embed_tokens.weight": (1000, 64)}
    assert predicted_bytes("INT4", shapes, 1) == predicted_bytes("INT8", shapes, 1)

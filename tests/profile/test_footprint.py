from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.profile.footprint import MIB, ModelShape, footprint, predict_decode

TINY_32K = ModelShape(
    layers=8, hidden=512, heads=8, kv_heads=4, head_dim=64, vocab=32000, parameters=40_000_000
)
SMALL_8K = ModelShape(
    layers=12, hidden=768, heads=12, kv_heads=4, head_dim=64, vocab=8192, parameters=82_000_000
)
WIDE_1K = ModelShape(
    layers=8, hidden=768, heads=12, kv_heads=4, head_dim=64, vocab=1024, parameters=70_000_000
)
ONNX_8K = replace(TINY_32K, vocab=8192, parameters=28_000_000)

shapes = st.builds(
    ModelShape,
    layers=st.integers(1, 80),
    hidden=st.integers(1, 8192),
    heads=st.integers(1, 64),
    kv_heads=st.integers(1, 64),
    head_dim=st.integers(1, 256),
    vocab=st.integers(1, 300_000),
    parameters=st.integers(1, 10**11),
)


def test_the_cache_of_llama_cpp_is_exact():
    """llama.cpp: `llama_kv_cache: CPU KV buffer size = 16.00 MiB`, and 64.00 MiB at a context of 8192."""
    assert footprint(TINY_32K, 1, 2048, 64, "gguf").kv_cache == 16 * MIB
    assert footprint(TINY_32K, 1, 8192, 64, "gguf").kv_cache == 64 * MIB


@pytest.mark.parametrize(
    ("shape", "micro_batch", "measured"),
    [
        (TINY_32K, 512, 64.50),
        (TINY_32K, 64, 8.06),
        (SMALL_8K, 512, 20.01),
        (SMALL_8K, 64, 2.50),
        (WIDE_1K, 512, 26.01),
        (WIDE_1K, 64, 3.25),
    ],
)
def test_the_compute_buffer_of_llama_cpp_is_covered_but_not_much_more(shape, micro_batch, measured):
    """Measured: `sched_reserve: CPU compute buffer size`, context 2048, flash attention chosen by itself."""
    predicted = footprint(shape, 1, 2048, micro_batch, "gguf").compute / MIB

    assert measured <= predicted <= 1.4 * measured


@pytest.mark.parametrize(
    ("shape", "weights", "context", "micro_batch", "measured"),
    [
        (TINY_32K, 41.2, 2048, 64, 112),
        (TINY_32K, 41.2, 2048, 512, 124),
        (TINY_32K, 41.2, 8192, 64, 160),
        (SMALL_8K, 83.1, 2048, 64, 159),
        (SMALL_8K, 83.1, 2048, 512, 176),
        (WIDE_1K, 71.0, 2048, 64, 138),
    ],
)
def test_resident_memory_with_llama_cpp_is_covered_with_little_to_spare(
    shape, weights, context, micro_batch, measured
):
    """Measured: VmHWM of a process with llama_cpp after a long prompt; 20 MiB more for the HTTP server.

    A large micro batch is reserved whole and touched in part, as only the last token's logits are asked for.
    """
    predicted = footprint(shape, int(weights * MIB), context, micro_batch, "gguf").total / MIB

    assert measured + 20 <= predicted <= (1.3 if micro_batch == 64 else 1.6) * (measured + 20)


@pytest.mark.parametrize(
    ("context", "micro_batch", "measured"),
    [
        (512, 64, 129),
        (1024, 64, 150),
        (2048, 16, 191),
        (2048, 64, 209),
        (2048, 128, 222),
        (2048, 512, 282),
        (4096, 64, 306),
        (4096, 128, 369),
        (4096, 256, 405),
    ],
)
def test_resident_memory_with_onnx_runtime_is_covered_with_little_to_spare(context, micro_batch, measured):
    """VmHWM of a process with onnxruntime and an INT8 model of 31 MiB after a prompt and 64 tokens."""
    predicted = footprint(ONNX_8K, 31 * MIB, context, micro_batch, "onnx").total / MIB

    assert 0.95 * (measured + 27) <= predicted <= 1.35 * (measured + 27)


@given(
    shapes,
    st.integers(1, 1 << 40),
    st.integers(16, 100_000),
    st.integers(1, 4096),
    st.sampled_from(["gguf", "onnx"]),
)
def test_every_part_grows_with_what_it_is_made_of(shape, weights, context, micro_batch, kind):
    small = footprint(shape, weights, context, micro_batch, kind)
    large = footprint(shape, weights + 1, context + 1, micro_batch + 1, kind)

    assert all(part > 0 for part in astuple(small))
    assert all(less <= more for less, more in zip(astuple(small), astuple(large), strict=True))
    assert small.total == sum(astuple(small)) < large.total


def test_a_raspberry_pi_5_decodes_as_fast_as_was_measured():
    """ggml-org/llama.cpp#26484: Q4_K_M of 0.398 GB at 25.77 tokens/s."""
    assert predict_decode(10_200_000_000, 398_000_000, 0) == pytest.approx(25.77, rel=0.02)


def test_a_full_cache_slows_decoding():
    assert predict_decode(1000, 80, 40) == 10.0

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.profile.footprint import MIB, ModelShape, bandwidth_of, footprint, predict_decode

TINY = ModelShape(
    layers=4, hidden=64, heads=4, kv_heads=4, head_dim=16, vocab=512, parameters=230_000, inner=192
)
SMALL_8K = ModelShape(
    layers=8, hidden=512, heads=8, kv_heads=4, head_dim=64, vocab=8192, parameters=27_000_000, inner=1376
)
UNTIED_32K = ModelShape(
    layers=12,
    hidden=768,
    heads=12,
    kv_heads=12,
    head_dim=64,
    vocab=32_000,
    parameters=134_000_000,
    inner=2048,
)
WIDE_150K = ModelShape(
    layers=8, hidden=512, heads=8, kv_heads=2, head_dim=64, vocab=150_000, parameters=116_000_000, inner=2816
)
QWEN_50K = ModelShape(
    layers=6, hidden=384, heads=6, kv_heads=2, head_dim=64, vocab=50_000, parameters=28_000_000, inner=1024
)
GEMMA_64K = ModelShape(
    layers=12, hidden=640, heads=4, kv_heads=1, head_dim=256, vocab=64_000, parameters=108_000_000, inner=2048
)

shapes = st.builds(
    ModelShape,
    layers=st.integers(1, 80),
    hidden=st.integers(1, 8192),
    heads=st.integers(1, 64),
    kv_heads=st.integers(1, 64),
    head_dim=st.integers(1, 256),
    vocab=st.integers(1, 300_000),
    parameters=st.integers(1, 10**11),
    inner=st.integers(0, 30_000),
)


def test_the_cache_of_llama_cpp_is_exact():
    """llama.cpp: `llama_kv_cache: CPU KV buffer size = 16.00 MiB`, and 2.00 MiB at a context of 100."""
    assert footprint(SMALL_8K, 1, 2048, 64, "gguf").kv_cache == 16 * MIB
    assert footprint(SMALL_8K, 1, 100, 64, "gguf").kv_cache == 2 * MIB


def test_a_sliding_window_saves_no_cache():
    """llama.cpp keeps every token in layers with a window too: 48 MiB, Gemma 3, window 512, context 4096."""
    assert footprint(GEMMA_64K, 1, 4096, 64, "gguf").kv_cache == 48 * MIB


@pytest.mark.parametrize(
    ("shape", "context", "micro_batch", "measured"),
    [
        (TINY, 4096, 512, 5.637),
        (SMALL_8K, 2048, 64, 1.759),
        (SMALL_8K, 2048, 512, 14.074),
        (SMALL_8K, 100, 64, 1.541),
        (UNTIED_32K, 2048, 64, 2.502),
        (UNTIED_32K, 1024, 512, 19.012),
        (UNTIED_32K, 4096, 512, 22.012),
        (WIDE_150K, 512, 64, 2.627),
        (WIDE_150K, 4096, 512, 24.512),
    ],
)
def test_the_compute_buffer_of_llama_cpp_is_covered_but_not_much_more(shape, context, micro_batch, measured):
    """Measured: `sched_reserve: CPU compute buffer size`, with the logits of one token alone."""
    predicted = footprint(shape, 1, context, micro_batch, "gguf").compute / MIB

    logits = 2 * 4 * shape.vocab / MIB
    assert measured <= predicted <= 1.15 * measured + logits


def test_a_feed_forward_that_is_not_known_is_taken_for_a_wide_one():
    unknown = footprint(replace(UNTIED_32K, inner=0), 1, 2048, 64, "gguf").compute

    assert unknown > footprint(UNTIED_32K, 1, 2048, 64, "gguf").compute


@pytest.mark.parametrize(
    ("shape", "file", "context", "micro_batch", "measured"),
    [
        (TINY, 0.5, 512, 16, 88),
        (TINY, 0.3, 4096, 512, 98),
        (SMALL_8K, 29.5, 2048, 64, 141),
        (UNTIED_32K, 144.0, 2048, 64, 306),
        (UNTIED_32K, 83.2, 4096, 64, 333),
        (WIDE_150K, 130.6, 512, 64, 364),
        (WIDE_150K, 93.7, 512, 64, 308),
        (GEMMA_64K, 117.5, 4096, 64, 304),
    ],
)
def test_what_the_daemon_needs_with_llama_cpp_is_covered_with_little_to_spare(
    shape, file, context, micro_batch, measured
):
    """Measured by bench/footprint.py, in 10^6 bytes."""
    predicted = footprint(shape, int(file * 1e6), context, micro_batch, "gguf").total / 1e6

    assert 0.95 * measured <= predicted <= 1.25 * measured


@pytest.mark.parametrize(
    ("shape", "file", "context", "micro_batch", "measured"),
    [
        (TINY, 1.0, 256, 16, 106),
        (TINY, 1.0, 4096, 512, 326),
        (SMALL_8K, 27.7, 512, 16, 167),
        (SMALL_8K, 27.7, 4096, 64, 355),
        (SMALL_8K, 27.7, 2048, 512, 386),
        (SMALL_8K, 109.7, 1024, 64, 283),
        (QWEN_50K, 29.1, 512, 64, 239),
        (QWEN_50K, 29.1, 1024, 512, 659),
    ],
)
def test_what_the_daemon_needs_with_onnx_runtime_is_covered_with_little_to_spare(
    shape, file, context, micro_batch, measured
):
    """Measured by bench/footprint.py, in 10^6 bytes."""
    predicted = footprint(shape, int(file * 1e6), context, micro_batch, "onnx").total / 1e6

    assert 0.95 * measured <= predicted <= 1.3 * measured


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
    """ggml-org/llama.cpp#26484: Q4_K_M of 0.398 GB, 24 layers, at 25.77 tokens/s."""
    assert predict_decode(10_200_000_000, 398_000_000, 0, 24) == pytest.approx(25.77, rel=0.05)


def test_a_full_cache_slows_decoding():
    fast, slow = predict_decode(10**6, 8 * 10**6, 0), predict_decode(10**6, 8 * 10**6, 4 * 10**6)

    assert (fast, slow) == pytest.approx((1 / 8, 1 / 10), rel=0.001)


def test_a_model_of_nothing_is_not_infinitely_fast():
    """Measured: 3,000 tokens/s, 4 layers of 64 columns, on two cores that read 20 GB/s."""
    assert 2000 < predict_decode(20 * 10**9, 500_000, 0, 4) < 5000


@given(
    st.integers(10**8, 10**12),
    st.integers(10**6, 10**11),
    st.integers(0, 10**10),
    st.integers(0, 200),
)
def test_the_bandwidth_is_found_again_from_the_speed(bandwidth, weights, cache, layers):
    speed = predict_decode(bandwidth, weights, cache, layers)

    assert bandwidth_of(speed, weights, cache, layers) == pytest.approx(bandwidth, rel=1e-3)


def test_a_speed_that_memory_does_not_explain_tells_no_bandwidth():
    assert bandwidth_of(30_000, 10**6, 0) is None

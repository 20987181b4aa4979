"""How many bytes a model needs to serve, and how fast they can be read.

Knows the shape of a model and the size of its file; nothing of tensors, of a device only its bandwidth.

Laws: every part grows with what it is made of (weights, context, micro batch, vocabulary); none is negative.
llama.cpp's parts are what it reports of its buffers (llama-cpp-python 0.3.36), ONNX's (1.31) fitted;
`bench/footprint.py` holds the sum against the whole daemon, router and worker, on x86-64: at most 15 % under
what they need at their peak. Not counted is what llama.cpp has repacked of a mapped file and never reads
again: pages that the kernel takes back when memory is short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

F16 = 2
F32 = 4
MIB = 1 << 20

RUNTIME = {"gguf": 84 * MIB, "onnx": 100 * MIB}
"""The daemon, router and worker, without model and tokenizer: 86 MB were resident with llama.cpp, 103 with
ONNX Runtime, pages of files that both have mapped counted once. The rest is for other versions of the
libraries."""
VOCABULARY = {"gguf": 1100, "onnx": 900}
"""Bytes for each token that the tokenizer knows: 0.6 to 1.05 KB and 0.8 to 0.9 KB measured, with 8,192 to
150,000 tokens and as many merges. A GGUF brings its vocabulary a second time."""

_PADDED = 256
"""llama.cpp rounds the context up to a multiple of this."""
_UNKNOWN_INNER = 6
"""Feed-forward over hidden size where it is not known; 2.7 to 8 are usual, and its buffer is small."""
_ONNX_WEIGHTS = 1.15
"""An ONNX session holds its weights once, and packed copies of some (1.0 to 1.15 files measured)."""
_ONNX_COPIES = 2
"""Copies of a float32 cache at its peak: what goes in and what comes out."""
_ONNX_SHARED, _ONNX_OWN = 8, 3
"""Copies of the keys of one layer for all heads, while they are laid out; more where heads share them."""
_ONNX_SCORES, _ONNX_MASK = 3, 10
"""Copies of one layer's attention scores, while they are masked and normalised, and of the mask."""
_ONNX_LOGITS = 4
"""Copies of the logits of all tokens of a batch: integers, their floats, these scaled, and one handed out."""
_ONNX_INNER = 3
"""Copies of the feed-forward's activations."""

_TOKEN_SECONDS = 40e-6
_LAYER_SECONDS = 60e-6
"""What a token costs besides reading weights: the server's loop, and for each layer some twenty operations
that all threads wait for. The smallest seen on one core of an AMD EPYC with random models of 64 columns and 1
to 32 layers under llama.cpp; the cores of a small board take several times longer, and so does its memory."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder's configuration that decide its memory.

    Learned positions are weights and cost nothing beside them. A layer with a sliding window costs as much as
    one without: llama.cpp by default keeps every token (`swa_full`), so that a prompt's beginning can be used
    again.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    parameters: int
    inner: int = 0
    """Width of the feed-forward; 0: not known."""
    outputs: int = 0
    """Numbers that come out for a token, a classifier's labels; 0: as many as the vocabulary has tokens."""


@dataclass(frozen=True)
class Footprint:
    """Bytes a serving daemon uses at its peak."""

    weights: int
    kv_cache: int
    compute: int
    runtime: int
    """The daemon itself, its libraries and its tokenizer."""

    @property
    def total(self) -> int:
        """Return all of them together."""
        return self.weights + self.kv_cache + self.compute + self.runtime


def footprint(
    shape: ModelShape,
    weight_bytes: int,
    context: int,
    micro_batch: int,
    format: Literal["gguf", "onnx"],  # noqa: A002 - the word of the domain
) -> Footprint:
    """Predict the memory of a daemon that serves one sequence of `context` tokens.

    gguf: the cache is float16 and allocated once; flash attention, llama.cpp's own choice on a CPU, writes no
    scores; logits are asked for of the last token alone, so that the vocabulary hardly matters.
    onnx: the cache is float32 and copied whole for each token; scores and logits of a batch are written out.
    """
    runtime = RUNTIME[format] + VOCABULARY[format] * shape.vocab
    if format == "gguf":
        cells = -(-context // _PADDED) * _PADDED
        return Footprint(
            weights=weight_bytes,
            kv_cache=_cached(shape, cells) * F16,
            compute=_llama_compute(shape, cells, micro_batch),
            runtime=runtime,
        )
    return Footprint(
        weights=int(_ONNX_WEIGHTS * weight_bytes),
        kv_cache=_ONNX_COPIES * _cached(shape, context) * F32,
        compute=_onnx_compute(shape, context, micro_batch),
        runtime=runtime,
    )


def predict_decode(bandwidth: int, weight_bytes: int, kv_bytes: int, layers: int = 0) -> float:
    """Return tokens per second: a token reads all weights and half the cache, and no token is free.

    Half, because the cache fills as the answer grows. `bandwidth` in bytes per second; without `layers` the
    server's own share is counted alone.
    """
    return 1 / (_read(weight_bytes, kv_bytes) / bandwidth + _overhead(layers))


def bandwidth_of(
    tokens_per_second: float, weight_bytes: int, kv_bytes: float, layers: int = 0
) -> float | None:
    """Return the bandwidth with which `predict_decode` says this speed; None if memory is not its limit."""
    reading = 1 / tokens_per_second - _overhead(layers)
    return _read(weight_bytes, kv_bytes) / reading if reading > 0 else None


def _read(weight_bytes: int, kv_bytes: float) -> float:
    """Return the bytes that a token reads."""
    return weight_bytes + kv_bytes / 2


def _overhead(layers: int) -> float:
    """Return the seconds that a token takes however small the model."""
    return _TOKEN_SECONDS + _LAYER_SECONDS * layers


def _cached(shape: ModelShape, tokens: int) -> int:
    """Return the numbers in the cache: a key and a value a token, a layer and a head."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens


def _llama_compute(shape: ModelShape, cells: int, micro_batch: int) -> int:
    """Return llama.cpp's buffer: the wider of feed-forward and attention, a mask, and logits twice."""
    feed_forward = 5 * shape.hidden + 3 * _inner(shape)
    attention = shape.hidden + 2 * shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    batch = micro_batch * (max(feed_forward, attention) * F32 + cells * F16)
    return batch + 2 * shape.vocab * F32


def _onnx_compute(shape: ModelShape, context: int, micro_batch: int) -> int:
    """Return what ONNX Runtime's arena holds besides cache and weights."""
    copies = _ONNX_SHARED if 0 < shape.kv_heads < shape.heads else _ONNX_OWN
    laid_out = copies * shape.heads * shape.head_dim * context
    scores = context * (_ONNX_SCORES * shape.heads + _ONNX_MASK)
    return F32 * (
        laid_out
        + micro_batch * (scores + _ONNX_LOGITS * (shape.outputs or shape.vocab) + _ONNX_INNER * _inner(shape))
    )


def _inner(shape: ModelShape) -> int:
    return shape.inner or _UNKNOWN_INNER * shape.hidden

"""How many bytes a model needs to serve, and how fast they can be read.

Knows the shape of a model and the size of its file; nothing of tensors, of a device only its bandwidth.

Laws: every part grows with what it is made of (weights, context, micro batch) and none is negative.
The constants were measured on x86-64 with llama.cpp (llama-cpp-python 0.3.36) and ONNX Runtime 1.31, random
Llamas of 40 to 90 MB; the whole was then within 15 % of the resident memory, or over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

F16 = 2
F32 = 4
MIB = 1 << 20

RUNTIME = {"gguf": 80 * MIB, "onnx": 112 * MIB}
"""The daemon without a model. 60 and 71 MiB were resident after 200 requests to one process that had imported
starlette, uvicorn, tokenizers, jinja2, prometheus_client and llama_cpp or onnxruntime; the whole daemon with
llama.cpp had 61 MiB beside its model, cache and buffer. The rest is for tokenizer and graph of a larger
model (6 to 9 MiB measured) and for requests under way."""

_ONNX_COPIES = 3
"""Copies of a float32 cache at its peak: what goes in, what comes out, the arena's (2.7 to 3.2 measured)."""
_ONNX_WEIGHTS = 2
"""An ONNX session holds its weights as read and as packed for the kernels (1.7 to 1.9 files measured)."""
_ONNX_SCORES = 3
"""Copies of the attention scores of one layer while they are masked and normalised."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder's configuration that decide its memory."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    parameters: int


@dataclass(frozen=True)
class Footprint:
    """Bytes a serving daemon uses at its peak."""

    weights: int
    kv_cache: int
    compute: int
    runtime: int

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

    gguf: the cache is float16 and allocated once; with flash attention, llama.cpp's own choice on a CPU,
    the compute buffer does not grow with the context. The file is mapped and counted once: where llama.cpp
    repacks weights for the cpu (Q4_0 and its like), the mapped originals stay resident too, in pages that
    the kernel takes back when it needs them.
    onnx: the cache is float32 and copied whole for each token; attention scores of a prompt are written out.
    """
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * context
    widest = max(
        shape.vocab + 4 * shape.hidden, 18 * shape.hidden
    )  # logits, or the feed-forward of one layer
    compute = micro_batch * widest * F32
    if format == "gguf":
        return Footprint(weight_bytes, cache * F16, compute, RUNTIME["gguf"])
    scores = _ONNX_SCORES * micro_batch * shape.heads * context * F32
    return Footprint(
        _ONNX_WEIGHTS * weight_bytes, _ONNX_COPIES * cache * F32, compute + scores, RUNTIME["onnx"]
    )


def predict_decode(bandwidth: int, weight_bytes: int, kv_bytes: int) -> float:
    """Return tokens per second where memory is the limit: a token reads all weights and half the cache.

    Half, because the cache fills as the answer grows. Too high for models of a few MB, which stay in the cpu
    caches and are slowed by all else.
    """
    return bandwidth / (weight_bytes + kv_bytes / 2)

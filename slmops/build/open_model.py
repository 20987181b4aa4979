"""Open a model in the runtime it is made for, and feed it token ids for next-token logits.

One way to ask three runtimes: transformers (the source), llama.cpp (.gguf), ONNX Runtime (.onnx).
Knows nothing of text. Call it in a child process: llama.cpp aborts on what it does not like.

Laws: feeding ids in one go or piece by piece asks the same question; only the arithmetic of the
runtime may differ. A model rewound to a length and fed again answers as one that was fed anew.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slmops.build.divergence import Rows
from slmops.errors import BuildError

MOST_THREADS = 4
LIGHT_BYTES = 100_000_000
"""Weights up to here are read by one thread: several would spend their time waiting for each other."""
STRIDE = 8
"""Tokens that are fed, and rows of logits that are held, at once: a vocabulary may have 200,000 tokens."""
LONG_STRIDE = 64
"""Tokens that the source is fed at once where only the last row counts."""

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR, as ggml.h numbers it."""
LAST_COMPLAINTS = 4
_kept: list[Any] = []
"""What C code holds on to, and Python must not free."""


class Model(Protocol):
    """A model with a memory of what it was fed."""

    def restart(self) -> None:
        """Forget everything that was fed."""

    def rewind(self, length: int) -> int:
        """Forget all but the first `length` tokens; return how many are left (none, if need be)."""

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`, which follow what was fed before."""

    def read(self, ids: list[int]) -> Rows:
        """Return the logits after the last of `ids`, one row; a server computes no others."""


@dataclass(frozen=True)
class Shape:
    """How a model is opened: what a server takes from its artifact's description."""

    context: int
    """Tokens there must be room for."""
    threads: int | None = None
    """None: as many as are worth it."""
    micro_batch: int = STRIDE
    """Tokens computed at once."""
    last_only: bool = False
    """Logits are wanted after the last of the ids fed alone, as a server wants them; it saves memory."""


def threads_for(nbytes: int) -> int:
    """Return how many threads to give a model whose weights are `nbytes` long."""
    return 1 if nbytes <= LIGHT_BYTES else min(os.cpu_count() or 1, MOST_THREADS)


class TorchModel:
    """A causal language model of transformers."""

    def __init__(self, model: Any) -> None:
        """Take a model that is loaded and in its evaluation mode."""
        import torch  # noqa: PLC0415 - two seconds and 200 MB, for the source alone

        torch.set_num_threads(threads_for(sum(weight.nbytes for weight in model.parameters())))
        self._torch, self._model = torch, model
        self._past: Any = None

    def restart(self) -> None:
        """Forget everything that was fed."""
        self._past = None

    def rewind(self, length: int) -> int:
        """Forget all but the first `length` tokens; all, where a sliding window has lost some already."""
        try:
            self._past.crop(length)
        except (AttributeError, ValueError):
            self._past, length = None, 0
        return length

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`."""
        with self._torch.inference_mode():
            said = self._model(self._torch.tensor([ids]), past_key_values=self._past, use_cache=True)
        self._past = said.past_key_values
        return np.asarray(said.logits[0].numpy())

    def read(self, ids: list[int]) -> Rows:
        """Return the logits after the last of `ids`."""
        return [self.feed(part)[-1:] for part in parts(ids, LONG_STRIDE)][-1]


class GgufModel:
    """A .gguf in llama.cpp, with its adapter, and the key and value cache as it is served (F16)."""

    def __init__(self, file: Path, shape: Shape, adapter: Path | None = None) -> None:
        """Open `file`; raise BuildError with llama.cpp's words when it or `adapter` cannot be."""
        import llama_cpp  # noqa: PLC0415

        self._api = llama_cpp
        self._complaints = _listen_to_llama()
        wanted = llama_cpp.llama_model_default_params()
        wanted.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(file), wanted)
        if not self._model:
            raise self._complaint(f"cannot load {file.name}")
        # Before the sequence is made: its room for computing counts what the adapter adds.
        worn = self._load(adapter, file) if adapter else None
        self._stride = min(shape.micro_batch, shape.context)
        self._rows = 1 if shape.last_only else min(STRIDE, self._stride)
        self._context = llama_cpp.llama_init_from_model(self._model, self._wanted(file, shape))
        if not self._context:
            raise self._complaint(f"cannot make room for {shape.context} tokens of {file.name}")
        if worn:
            self._put_on(worn)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(self._stride, 0, 1)
        self._fed = 0

    def _load(self, adapter: Path, file: Path) -> Any:
        found = self._api.llama_adapter_lora_init(self._model, os.fsencode(adapter))
        if not found:
            raise self._complaint(f"cannot put {adapter.name} on {file.name}")
        return found

    def _put_on(self, adapter: Any) -> None:
        adapters, scales = (self._api.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
        if self._api.llama_set_adapters_lora(self._context, adapters, 1, scales):
            raise self._complaint("cannot use the adapter")

    def _wanted(self, file: Path, shape: Shape) -> Any:
        wanted = self._api.llama_context_default_params()
        wanted.n_ctx = shape.context
        wanted.n_batch = wanted.n_ubatch = self._stride
        wanted.n_seq_max = 1
        wanted.n_outputs_max = self._rows
        wanted.n_threads = wanted.n_threads_batch = shape.threads or threads_for(file.stat().st_size)
        wanted.no_perf = True
        return wanted

    def restart(self) -> None:
        """Forget everything that was fed."""
        self._api.llama_memory_clear(self._memory, True)
        self._fed = 0

    def rewind(self, length: int) -> int:
        """Forget all but the first `length` tokens; all, where the model has a recurrent state."""
        if self._api.llama_memory_seq_rm(self._memory, 0, length, -1):
            self._fed = length
        else:
            self.restart()
        return self._fed

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`."""
        return np.concatenate([self._decode(part, every=True) for part in parts(ids, self._rows)])

    def read(self, ids: list[int]) -> Rows:
        """Return the logits after the last of `ids`."""
        return [self._decode(part, every=False) for part in parts(ids, self._stride)][-1]

    def _decode(self, ids: list[int], *, every: bool) -> Rows:
        batch = self._batch
        batch.n_tokens = len(ids)
        for place, id_ in enumerate(ids):
            batch.token[place], batch.pos[place] = id_, self._fed + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = every or place == len(ids) - 1
        failed = self._api.llama_decode(self._context, batch)
        if failed:
            raise self._complaint(f"cannot compute {len(ids)} tokens after {self._fed} (code {failed})")
        self._fed += len(ids)
        rows = self._api.llama_get_logits(self._context)
        return np.array(np.ctypeslib.as_array(rows, (len(ids) if every else 1, self._vocabulary)))

    def _complaint(self, what: str) -> BuildError:
        why = "; ".join(self._complaints) or "it does not say why"
        return BuildError(f"llama.cpp {what}: {why}", remedy="Build or copy the file again.")


class OnnxModel:
    """A decoder with past_key_values.* and present.* in ONNX Runtime on the CPU."""

    def __init__(self, file: Path, shape: Shape | None = None) -> None:
        """Open `file`; the graph bears any length, so that `shape` says no more than how it is fed."""
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = (shape and shape.threads) or threads_for(file.stat().st_size)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        self._asked = set(inputs)
        self._empty = {
            name: np.zeros((1, axes[1], 0, axes[3]), np.float32)
            for name, axes in inputs.items()
            if name.startswith("past_key_values.")
        }
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._empty)]
        self._stride = shape.micro_batch if shape else STRIDE
        self.restart()

    def restart(self) -> None:
        """Forget everything that was fed."""
        self._past, self._fed = self._empty, 0

    def rewind(self, length: int) -> int:
        """Forget all but the first `length` tokens."""
        self._past = {name: np.ascontiguousarray(value[:, :, :length]) for name, value in self._past.items()}
        self._fed = length
        return length

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`."""
        start, self._fed = self._fed, self._fed + len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, self._fed), np.int64),
            "position_ids": np.arange(start, self._fed, dtype=np.int64)[None],
        }
        asked = {name: value for name, value in inputs.items() if name in self._asked}
        logits, *present = self._session.run(self._outputs, {**asked, **self._past})
        self._past = dict(zip(self._empty, present, strict=True))
        return np.asarray(logits[0])

    def read(self, ids: list[int]) -> Rows:
        """Return the logits after the last of `ids`; the graph computes those of all."""
        return [self.feed(part)[-1:] for part in parts(ids, self._stride)][-1]


@cache
def _listen_to_llama() -> deque[str]:
    """Have llama.cpp's log keep silent; return where the last lines of it that are errors will stand."""
    import llama_cpp  # noqa: PLC0415

    complaints: deque[str] = deque(maxlen=LAST_COMPLAINTS)

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
    def listen(level: int, text: bytes, _data: Any) -> None:
        if level == ERROR_LEVEL:
            complaints.append(text.decode("utf-8", "replace").strip())

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    _kept.append(listen)
    return complaints


def open_artifact(file: Path, shape: Shape, adapter: Path | None = None) -> Model:
    """Open a .gguf or .onnx file as `shape` says; `adapter` is one for a .gguf."""
    if file.suffix == ".gguf":
        return GgufModel(file, shape, adapter)
    if file.suffix == ".onnx":
        return OnnxModel(file, shape)
    raise BuildError(f"{file}: expected a .gguf or an .onnx file")


def parts(ids: list[int], size: int) -> list[list[int]]:
    """Return `ids` in order, `size` at a time."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]

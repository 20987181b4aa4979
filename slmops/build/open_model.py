"""Open a model in the runtime it is made for, and feed it token ids for next-token logits.

One way to ask three runtimes: transformers (the source), llama.cpp (.gguf), ONNX Runtime (.onnx).
Knows nothing of text. Call it in a child process: llama.cpp aborts on what it does not like.

Law: feeding ids in one go or piece by piece asks the same question; only the arithmetic of the
runtime may differ.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slmops.build.divergence import Rows
from slmops.errors import BuildError

MOST_THREADS = 4
LIGHT_BYTES = 100_000_000
"""Weights up to here are read by one thread: several would spend their time waiting for each other."""


class Model(Protocol):
    """A model with a memory of what it was fed."""

    def restart(self) -> None:
        """Forget everything that was fed."""

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`, which follow what was fed before."""


def threads_for(nbytes: int) -> int:
    """Return how many threads to give a model whose weights are `nbytes` long."""
    return 1 if nbytes <= LIGHT_BYTES else min(os.cpu_count() or 1, MOST_THREADS)


class TorchModel:
    """A causal language model of transformers."""

    def __init__(self, model: Any) -> None:
        """Take a model that is loaded and in its evaluation mode."""
        import torch  # noqa: PLC0415 - two seconds and 200 MB, for the source alone

        torch.set_num_threads(threads_for(sum(weight.nbytes for weight in model.parameters())))
        self._torch, self._model, self._past = torch, model, None

    def restart(self) -> None:
        """Forget everything that was fed."""
        self._past = None

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`."""
        with self._torch.inference_mode():
            said = self._model(self._torch.tensor([ids]), past_key_values=self._past, use_cache=True)
        self._past = said.past_key_values
        return np.asarray(said.logits[0].numpy())


class GgufModel:
    """A .gguf in llama.cpp, with the key and value cache as it is served (F16)."""

    def __init__(self, file: Path, context: int) -> None:
        """Open `file` with room for `context` tokens."""
        from llama_cpp import Llama  # noqa: PLC0415

        threads = threads_for(file.stat().st_size)
        self.llama = Llama(
            str(file),
            n_ctx=context,
            n_batch=context,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
        )

    def restart(self) -> None:
        """Forget everything that was fed."""
        self.llama.reset()

    def feed(self, ids: list[int]) -> Rows:
        """Return the logits after each of `ids`."""
        start = self.llama.n_tokens
        self.llama.eval(ids)
        return np.array(self.llama.scores[start : self.llama.n_tokens])


class OnnxModel:
    """A decoder with past_key_values.* and present.* in ONNX Runtime on the CPU."""

    def __init__(self, file: Path) -> None:
        """Open `file`."""
        import onnxruntime  # noqa: PLC0415

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads_for(file.stat().st_size)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        self._asked = set(inputs)
        self._empty = {
            name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
            for name, shape in inputs.items()
            if name.startswith("past_key_values.")
        }
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._empty)]
        self.restart()

    def restart(self) -> None:
        """Forget everything that was fed."""
        self._past, self._fed = self._empty, 0

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


def open_artifact(file: Path, context: int) -> Model:
    """Open a .gguf or .onnx file with room for `context` tokens."""
    if file.suffix == ".gguf":
        return GgufModel(file, context)
    if file.suffix == ".onnx":
        return OnnxModel(file)
    raise BuildError(f"{file}: expected a .gguf or an .onnx file")

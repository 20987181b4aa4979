"""ONNX decoder models with a key-value cache, through ONNX Runtime on the CPU.

It does not know requests or the model's configuration: names, shapes and types of inputs and outputs
are the graph's own, as optimum exports them (`past_key_values.N.key`, `present.N.key`).

Law: threads wait, they do not spin; a device has other work to do.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

# Before the import: with it ONNX Runtime makes a device id for its maker, and would send to it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from slmops.daemon.engine import Logits
from slmops.errors import ModelError

ERROR_LEVEL = 3
"""ONNX Runtime's ORT_LOGGING_LEVEL_ERROR."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PAST, PRESENT = "past_key_values.", "present."
PLAIN = {"input_ids", "attention_mask", "position_ids"}
M_MMAP_THRESHOLD = -3
LARGE = 128 * 1024
"""Bytes; glibc's own first idea of what is large."""


class OnnxEngine:
    """An `Engine` over an ONNX graph; keys and values stay on ONNX Runtime's side between steps."""

    def __init__(self, file: Path, context: int, threads: int, micro_batch: int) -> None:
        """Load `file`; raise ModelError when it does not load or is not such a decoder."""
        self._session = open_session(file, threads)
        inputs = {found.name: found for found in self._session.get_inputs()}
        outputs = {found.name: found for found in self._session.get_outputs()}
        self._past = {name: found for name, found in inputs.items() if name.startswith(PAST)}
        missing = {"input_ids", "attention_mask"} - set(inputs)
        missing |= {"logits", *map(_present, self._past)} - set(outputs)
        strange = set(inputs) - PLAIN - set(self._past)
        if missing or strange or not self._past:
            raise ModelError(
                f"{file.name} is not a decoder with a key-value cache: "
                f"missing {sorted(missing) or 'nothing'}, unknown inputs {sorted(strange) or 'none'}",
                remedy="Export it with optimum, task text-generation-with-past.",
            )
        self._has_positions = "position_ids" in inputs
        self.context = context
        self.vocabulary = int(outputs["logits"].shape[-1])
        self.stride = min(micro_batch, context)
        self._binding = self._session.io_binding()
        self._length = 0
        self._cache = {name: _value(_empty(found)) for name, found in self._past.items()}

    def feed(self, ids: Sequence[int]) -> Logits:
        """See `Engine`."""
        end = self._length + len(ids)
        self._binding.clear_binding_inputs()
        self._bind("input_ids", np.array([ids], np.int64))
        self._bind("attention_mask", np.ones((1, end), np.int64))
        if self._has_positions:
            self._bind("position_ids", np.arange(self._length, end, dtype=np.int64)[None])
        for name, value in self._cache.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.clear_binding_outputs()
        self._binding.bind_output("logits", "cpu")
        for name in self._cache:
            self._binding.bind_output(_present(name), "cpu")
        self._session.run_with_iobinding(self._binding)
        logits, *present = self._binding.get_outputs()
        self._cache = dict(zip(self._cache, present, strict=True))
        self._length = end
        last: Logits = logits.numpy()[0, -1].astype(np.float32, copy=False)
        return last

    def rewind(self, length: int) -> int:
        """See `Engine`."""
        if length < self._length:
            self._cache = {name: _value(value.numpy()[:, :, :length]) for name, value in self._cache.items()}
            self._length = length
        return length

    def _bind(self, name: str, array: NDArray[np.int64]) -> None:
        self._binding.bind_ortvalue_input(name, _value(array))


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph; raise ModelError when it does not load."""
    _give_memory_back()
    wanted = onnxruntime.SessionOptions()
    wanted.intra_op_num_threads = threads
    wanted.inter_op_num_threads = 1
    wanted.log_severity_level = ERROR_LEVEL
    wanted.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), wanted, providers=["CPUExecutionProvider"])
    # ONNX Runtime's own errors share no base class but this one.
    except Exception as error:
        raise ModelError(f"{file.name} does not load: {' '.join(str(error).split())}") from error


def _present(past: str) -> str:
    """Return the output that a cache input comes from."""
    return PRESENT + past.removeprefix(PAST)


def _empty(found: onnxruntime.NodeArg) -> NDArray[np.floating]:
    """Return a cache of no tokens in the shape (batch, heads, tokens, head size) of the input."""
    _, heads, _, size = found.shape
    return np.zeros((1, heads, 0, size), TYPES[found.type])


def _value(array: NDArray[np.floating] | NDArray[np.int64]) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _give_memory_back() -> None:
    """Have glibc return large freed blocks to the system for good.

    By default it stops doing so once it has seen a few, and keeps a copy's worth of memory after a
    model was loaded: a fifth of the daemon's (measured: 278 MB became 224 with a model of 69 MB).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)

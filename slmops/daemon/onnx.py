"""ONNX decoder models with a key-value cache, through ONNX Runtime on the CPU.

It does not know requests or the model's configuration: names, shapes and types of inputs and outputs
are the graph's own, as optimum exports them (`past_key_values.N.key`, `present.N.key`).

Sequences that take a step together are a company: one cache with a row for each, padded on the left,
which is made anew only when others step together than before. One alone is a company of one.

Laws: what is computed alone is the same to the last bit whatever else is there; no row of a company is
padding for more than half, short ones aside; threads wait, they do not spin: a device has other work to do.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before the import: with it ONNX Runtime makes a device id for its maker, and would send to it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from slmops.daemon.engine import Logits, Part, Shape
from slmops.daemon.vectors import States
from slmops.errors import ModelError

ERROR_LEVEL = 3
"""ONNX Runtime's ORT_LOGGING_LEVEL_ERROR."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
PAST, PRESENT = "past_key_values.", "present."
PLAIN = {"input_ids", "attention_mask", "position_ids"}
SHORT = 64
"""Tokens of padding that cost less than a call of their own."""
M_MMAP_THRESHOLD = -3
LARGE = 128 * 1024
"""Bytes; glibc's own first idea of what is large."""


@dataclass
class Company:
    """Sequences whose keys and values lie in one cache, a row for each."""

    members: tuple[int, ...]
    """The sequence of each row; one that has left since is at home elsewhere."""
    width: int
    """Tokens of a row, the padding before them included."""
    cache: dict[str, onnxruntime.OrtValue]
    """By input: (row, head, token, head size)."""


class OnnxEngine:
    """An `Engine` over an ONNX graph; keys and values stay on ONNX Runtime's side between steps."""

    apart, copies, parts = False, True, 1
    outputs = width = 0

    def __init__(self, file: Path, shape: Shape) -> None:
        """Load `file`; raise ModelError when it does not load or is not such a decoder."""
        self._session = open_session(file, shape.threads)
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
        self._has_rows = not isinstance(inputs["input_ids"].shape[0], int)
        self.context, self.pool, self.slots = shape.context, shape.pool, shape.slots
        self.sequences = 2 * shape.slots
        self.vocabulary = int(outputs["logits"].shape[-1])
        self.stride = min(shape.stride, shape.context)
        self._binding = self._session.io_binding()
        self._lengths: dict[int, int] = {}
        """Of the sequences that have tokens."""
        self._homes: dict[int, Company] = {}

    def read(self, parts: Sequence[Part]) -> list[Logits | None]:
        """See `Engine`."""
        return [self._read(*part) for part in parts]

    def _read(self, sequence: int, ids: Sequence[int], wants_logits: bool) -> Logits | None:  # noqa: FBT001
        self._claim(len(ids))
        if len(self._home(sequence).members) > 1:
            self._settle(sequence, self._lengths[sequence])
        rows = self._run(self._home(sequence), np.array([ids], np.int64))
        return rows[0] if wants_logits else None

    def step(self, rows: Sequence[tuple[int, int]]) -> list[Logits]:
        """See `Engine`."""
        self._claim(len(rows))
        tokens = dict(rows)
        found: dict[int, Logits] = {}
        for members in self._parted(list(tokens)):
            company = self._together(members)
            ids = np.array([[tokens[sequence]] for sequence in company.members], np.int64)
            found.update(zip(company.members, self._run(company, ids), strict=True))
        return [found[sequence] for sequence in tokens]

    def keep(self, sequence: int, length: int) -> int:
        """See `Engine`."""
        if length < self._lengths.get(sequence, 0):
            self._settle(sequence, length)
        return self._lengths.get(sequence, 0)

    def share(self, source: int, target: int, length: int) -> int:
        """See `Engine`; what is shared is copied, and takes its own room in the pool."""
        length = min(length, self._lengths.get(source, 0))
        if not length or sum(self._lengths.values()) + length > self.pool:
            return 0
        self._homes[target] = self._alone(source, target, length)
        self._lengths[target] = length
        return length

    def exchange(self, one: int, other: int) -> None:
        """Raise ModelError: sequences share a pool here, where places are nothing."""
        raise ModelError(f"{one} and {other} have no places to change")

    def embed(self, sequence: int, ids: Sequence[int]) -> States:
        """Raise ModelError: the graph says nothing but logits."""
        raise ModelError(f"{len(ids)} tokens, read into {sequence}, come to nothing but logits")

    def _claim(self, count: int) -> None:
        """Raise ModelError when the pool has no room for `count` more tokens."""
        held = sum(self._lengths.values())
        if held + count > self.pool:
            raise ModelError(f"{held} tokens are in the pool of {self.pool}; {count} more have no room")

    def _home(self, sequence: int) -> Company:
        """Return the company that `sequence` is in, which is new for one without tokens."""
        if sequence not in self._homes:
            self._homes[sequence] = Company(
                (sequence,), 0, {name: _value(_empty(found)) for name, found in self._past.items()}
            )
            self._lengths[sequence] = 0
        return self._homes[sequence]

    def _settle(self, sequence: int, length: int) -> None:
        """Give `sequence`, of which `length` tokens stay, a company of its own; none where nothing stays."""
        if length:
            self._homes[sequence], self._lengths[sequence] = self._alone(sequence, sequence, length), length
        else:
            del self._homes[sequence], self._lengths[sequence]

    def _alone(self, source: int, target: int, length: int) -> Company:
        """Return a company of `target` alone that begins with the first `length` tokens of `source`."""
        home = self._homes[source]
        row, start = home.members.index(source), home.width - self._lengths[source]
        cache = {
            name: _value(_view(value)[row : row + 1, :, start : start + length].copy())
            for name, value in home.cache.items()
        }
        return Company((target,), length, cache)

    def _parted(self, wanted: Sequence[int]) -> list[list[int]]:
        """Return `wanted` as the companies that they step in."""
        for sequence in wanted:
            self._home(sequence)
        if not self._has_rows:
            return [[sequence] for sequence in wanted]
        lengths = {sequence: self._lengths[sequence] for sequence in wanted}
        return companies(lengths, padded=self._has_positions)

    def _together(self, members: Sequence[int]) -> Company:
        """Return the company of exactly `members`, the longest first: the one there is, or a new one."""
        homes = list({id(self._homes[sequence]): self._homes[sequence] for sequence in members}.values())
        if len(homes) == 1 and len(homes[0].members) == len(members):
            return homes[0]
        for home in homes:
            self._part(home, members)
        made = Company(tuple(members), self._lengths[members[0]], {})
        for name, found in self._past.items():
            _, heads, _, size = found.shape
            rows = np.zeros((len(members), heads, made.width, size), TYPES[found.type])
            for row, sequence in zip(rows, members, strict=True):
                home, length = self._homes[sequence], self._lengths[sequence]
                if length:
                    row[:, -length:] = _view(home.cache[name])[home.members.index(sequence), :, -length:]
            made.cache[name] = _value(rows)
            for home in homes:
                del home.cache[name]
        self._homes.update(dict.fromkeys(members, made))
        return made

    def _part(self, home: Company, leaving: Sequence[int]) -> None:
        """Give those who stay, and are still at `home`, companies of their own."""
        for sequence in set(home.members) - set(leaving):
            if self._homes.get(sequence) is home:
                self._settle(sequence, self._lengths[sequence])

    def _run(self, company: Company, ids: NDArray[np.int64]) -> list[Logits]:
        """Append `ids` (row, token) to a company; return the logits after the last of each row."""
        more, end = ids.shape[1], company.width + ids.shape[1]
        lengths = np.array([self._lengths[sequence] for sequence in company.members])[:, None]
        mask = np.arange(end) >= company.width - lengths
        self._binding.clear_binding_inputs()
        self._bind("input_ids", ids)
        self._bind("attention_mask", mask.astype(np.int64))
        if self._has_positions:
            self._bind("position_ids", lengths + np.arange(more))
        for name, value in company.cache.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.clear_binding_outputs()
        self._binding.bind_output("logits", "cpu")
        for name in company.cache:
            self._binding.bind_output(_present(name), "cpu")
        try:
            self._session.run_with_iobinding(self._binding)
        # See `open_session`.
        except Exception as error:
            raise failure(error) from error
        logits, *present = self._binding.get_outputs()
        company.cache = dict(zip(company.cache, present, strict=True))
        company.width = end
        for sequence in company.members:
            self._lengths[sequence] += more
        return list(logits.numpy()[:, -1].astype(np.float32, copy=False))

    def _bind(self, name: str, array: NDArray[np.int64]) -> None:
        self._binding.bind_ortvalue_input(name, _value(array))


def companies(lengths: Mapping[int, int], *, padded: bool) -> list[list[int]]:
    """Return which sequences are computed together, by their lengths: each company's longest first.

    Not `padded` are models that take positions from a mask: only equals go together there.
    """
    found: list[list[int]] = []
    for sequence in sorted(lengths, key=lambda sequence: (-lengths[sequence], sequence)):
        padding = lengths[found[-1][0]] - lengths[sequence] if found else 0
        if found and padding <= (max(lengths[sequence], SHORT) if padded else 0):
            found[-1].append(sequence)
        else:
            found.append([sequence])
    return found


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


def failure(error: Exception) -> ModelError:
    """Return what it is that ONNX Runtime cannot compute."""
    return ModelError(f"ONNX Runtime cannot compute: {' '.join(str(error).split())}")


def _present(past: str) -> str:
    """Return the output that a cache input comes from."""
    return PRESENT + past.removeprefix(PAST)


def _empty(found: onnxruntime.NodeArg) -> NDArray[np.floating]:
    """Return a cache of no tokens in the shape (batch, heads, tokens, head size) of the input."""
    _, heads, _, size = found.shape
    return np.zeros((1, heads, 0, size), TYPES[found.type])


def _view(value: onnxruntime.OrtValue) -> NDArray[np.floating]:
    """Return the numbers of `value` where they lie, for as long as it is there."""
    kind = np.dtype(TYPES[value.data_type()])
    shape = tuple(value.shape())
    if 0 in shape:
        return np.zeros(shape, kind)
    there = (ctypes.c_char * value.tensor_size_in_bytes()).from_address(value.data_ptr())
    return np.frombuffer(there, kind).reshape(shape)


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

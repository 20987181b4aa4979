"""GGUF models through llama.cpp's C interface, as llama-cpp-python binds it.

It does not know requests. One model, one context, several sequences.

Laws: no context beyond what the model was trained for; no text reaches llama.cpp's tokenizer that
it would abort on; llama.cpp writes nothing to the log by itself.
"""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from slmops.daemon import give_back
from slmops.daemon.deep import deep
from slmops.daemon.engine import Logits, Part, Shape
from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.rows import Rows
from slmops.daemon.vectors import States
from slmops.errors import ModelError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR, as ggml.h numbers it (llama-cpp-python's own logger is a version behind)."""
BYTE_TOKENS = 256
BYTES = ctypes.POINTER(ctypes.c_uint8)
EMBEDDED = 16
"""Tokens of a text that are embedded in one call at least."""
LONGEST_WORD = 1 << 16
"""Characters without a space between them that are read at most."""
SHALLOW_WORD = 1 << 12
"""As many of them as any thread has the stack for: 400 bytes each, for some kinds of tokenizer."""
VARIANTS = "libggml-cpu-*.so"
"""Files with the code for processors, where a build keeps one for each kind of them."""
_complaints: deque[str] = deque(maxlen=4)
"""The last lines of llama.cpp that were errors: why a model did not load."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes
def _listen(level: int, text: bytes, _data: Any) -> None:
    if level == ERROR_LEVEL:
        _complaints.append(text.decode("utf-8", "replace").strip())


class LlamaModel:
    """A GGUF file, mapped into memory, with its adapter; its engine and its vocabulary are made from it."""

    def __init__(self, file: Path, adapter: Path | None = None) -> None:
        """Load `file`; raise ModelError when that or `adapter` fails."""
        llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))
        _load_variant()
        llama_cpp.llama_backend_init()
        _complaints.clear()
        wanted = llama_cpp.llama_model_default_params()
        wanted.n_gpu_layers = 0
        self.pointer = llama_cpp.llama_model_load_from_file(os.fsencode(file), wanted)
        if not self.pointer:
            raise ModelError(f"{file.name} does not load: {_complaint()}")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.pointer)
        self.adapter = self._load(adapter, file) if adapter else None

    def _load(self, adapter: Path, file: Path) -> Any:
        """Return the adapter, which llama.cpp frees with the model; no sequence may be there yet."""
        found = llama_cpp.llama_adapter_lora_init(self.pointer, os.fsencode(adapter))
        if not found:
            raise ModelError(f"{adapter.name} is no adapter for {file.name}: {_complaint()}")
        return found


class LlamaEngine:
    """An `Engine` over a loaded GGUF.

    Where the pool has a whole context for each slot, each has cells of its own for keys and values, and what
    two of them begin with is copied: a step then looks at a sequence's own cells alone (seen: 10 to 15 % less
    time than with one pool for all). Otherwise sequences share one pool; what two of them begin with lies
    there once.
    """

    def __init__(self, model: LlamaModel, shape: Shape) -> None:
        """Make room for the sequences; raise ModelError when the model cannot have that much."""
        trained = llama_cpp.llama_model_n_ctx_train(model.pointer)
        if shape.context > trained:
            raise ModelError(f"a context of {shape.context} tokens was asked for; the model knows {trained}")
        self.context, self.pool, self.slots = shape.context, max(shape.pool, shape.context), shape.slots
        self.stride = min(shape.stride, shape.context)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(model.vocabulary)
        # A recurrent state is all there is of a sequence: no part of it can be forgotten, or given away.
        self._has_state: bool = llama_cpp.llama_model_is_recurrent(
            model.pointer
        ) or llama_cpp.llama_model_is_hybrid(model.pointer)
        # What a window has passed is not copied with the rest.
        slides = 0 < llama_cpp.llama_model_n_swa(model.pointer) < shape.context
        self.apart = self.copies = self.pool >= shape.slots * shape.context and not slides
        self.sequences = self.parts = shape.slots
        if not self.apart and not self._has_state:
            self.sequences *= 2
        self.outputs = max(self.sequences, EMBEDDED)
        """Rows of output there is room for."""
        self._pointer = self._context(model.pointer, shape.threads)
        if model.adapter:
            self._put_on(model.adapter)
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self.width: int = llama_cpp.llama_model_n_embd_out(model.pointer)
        self._lengths = [0] * self.sequences
        self._rows = Rows(max(self.stride, self.outputs))
        self._seen: dict[tuple[int, int], NDArray[np.float32]] = {}
        """Rows that llama.cpp wrote, by the address where they begin and their width; it seldom moves."""

    def _context(self, model: Any, threads: int) -> Any:
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = self.pool
        wanted.kv_unified = not self.apart
        wanted.n_batch = wanted.n_ubatch = max(self.stride, self.outputs)
        # Fewer outputs than sequences it does not take: it aborts.
        wanted.n_seq_max, wanted.n_outputs_max = self.sequences, self.outputs
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        wanted.no_perf = True
        with give_back.making():
            pointer = llama_cpp.llama_init_from_model(model, wanted)
        if not pointer:
            raise ModelError(f"no context of {self.pool} tokens could be made: {_complaint()}")
        return pointer

    def _put_on(self, adapter: Any) -> None:
        adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(self._pointer, adapters, 1, scales):
            raise ModelError(f"the adapter could not be put on: {_complaint()}")

    def read(self, parts: Sequence[Part]) -> list[Logits | None]:
        """See `Engine`."""
        rows, at = self._rows, 0
        for sequence, ids, wants_logits in parts:
            start, end = self._lengths[sequence], at + len(ids)
            rows.tokens[at:end] = ids
            rows.positions[at:end] = np.arange(start, start + len(ids))
            rows.sequences[at:end] = sequence
            rows.wanted[at:end] = 0
            rows.wanted[end - 1] = wants_logits
            at = end
        self._decode(at)
        for sequence, ids, _ in parts:
            self._lengths[sequence] += len(ids)
        if not any(part.wants_logits for part in parts):
            return [None] * len(parts)
        found = iter(self._table(llama_cpp.llama_get_logits, self.vocabulary))
        return [next(found) if part.wants_logits else None for part in parts]

    def step(self, rows: Sequence[tuple[int, int]]) -> list[Logits]:
        """See `Engine`."""
        into = self._rows
        for at, (sequence, token) in enumerate(rows):
            into.tokens[at] = token
            into.sequences[at] = sequence
            into.positions[at] = self._lengths[sequence]
        into.wanted[: len(rows)] = 1
        self._decode(len(rows))
        for sequence, _ in rows:
            self._lengths[sequence] += 1
        return list(self._table(llama_cpp.llama_get_logits, self.vocabulary)[: len(rows)])

    def keep(self, sequence: int, length: int) -> int:
        """See `Engine`."""
        if 0 < self._lengths[sequence] <= length:
            return self._lengths[sequence]
        if length and self._slid(sequence):
            length = 0
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            length = 0
        self._lengths[sequence] = length
        if not any(self._lengths):
            # The next one then lies where the first one lay: where keys lie decides the last bits of sums.
            llama_cpp.llama_memory_clear(self._memory, False)
        return length

    def share(self, source: int, target: int, length: int) -> int:
        """See `Engine`; in one pool a copy of keys and values is a second name for them."""
        if self._has_state or (length < self._lengths[source] and self._slid(source)):
            return 0
        if not self.apart:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)
            self._lengths[target] = length
            return length
        if not self._put(target, self._taken(source), self._lengths[source]):
            return self.keep(target, 0)
        return self.keep(target, length)

    def exchange(self, one: int, other: int) -> None:
        """See `Engine`."""
        taken = [(self._taken(sequence), self._lengths[sequence]) for sequence in (other, one)]
        for sequence, (state, length) in zip((one, other), taken, strict=True):
            self.keep(sequence, 0)
            if length and not self._put(sequence, state, length):
                raise ModelError(f"{length} tokens could not be put elsewhere: {_complaint()}")

    def _slid(self, sequence: int) -> bool:
        """Say whether a window has passed the beginning of a sequence: no shorter one can be made of it."""
        return bool(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence) > 0)

    def _taken(self, sequence: int) -> NDArray[np.uint8]:
        """Return all that a sequence holds, in llama.cpp's own form."""
        size = llama_cpp.llama_state_seq_get_size(self._pointer, sequence)
        state = np.empty(size, np.uint8)
        llama_cpp.llama_state_seq_get_data(self._pointer, state.ctypes.data_as(BYTES), size, sequence)
        return state

    def _put(self, sequence: int, state: NDArray[np.uint8], length: int) -> bool:
        """Fill an empty sequence with what was taken, which had `length` tokens; say whether it could be."""
        self._lengths[sequence] = length
        where = state.ctypes.data_as(BYTES)
        return bool(llama_cpp.llama_state_seq_set_data(self._pointer, where, state.size, sequence))

    def embed(self, sequence: int, ids: Sequence[int]) -> States:
        """See `Engine`: the last layer's states.

        As many are read at a time as there is room for rows of output: more would be memory that nobody
        planned.
        """
        rows, count, start = self._rows, len(ids), self._lengths[sequence]
        rows.tokens[:count] = ids
        rows.positions[:count] = np.arange(start, start + count)
        rows.sequences[:count] = sequence
        rows.wanted[:count] = 1
        llama_cpp.llama_set_embeddings(self._pointer, True)
        try:
            self._decode(count)
        finally:
            llama_cpp.llama_set_embeddings(self._pointer, False)
        self._lengths[sequence] += count
        states = self._table(llama_cpp.llama_get_embeddings, self.width)[:count]
        total: States = states.sum(axis=0).astype(np.float64)
        if not np.isfinite(total).all():
            raise ModelError("the model computes states that are not numbers: its weights are broken")
        return total

    def _decode(self, count: int) -> None:
        self._rows.batch.n_tokens = count
        failed = llama_cpp.llama_decode(self._pointer, self._rows.batch)
        if failed:
            raise ModelError(f"llama.cpp could not compute (code {failed}): {_complaint()}")

    def _table(self, find: Callable[[Any], Any], width: int) -> NDArray[np.float32]:
        """Return the rows of output, those that the last call wrote first."""
        address = ctypes.addressof(find(self._pointer).contents)
        if (address, width) not in self._seen:
            room = (ctypes.c_float * (self.outputs * width)).from_address(address)
            self._seen = {(address, width): np.ctypeslib.as_array(room).reshape(self.outputs, width)}
        return self._seen[address, width]


class GgufVocabulary:
    """A `Vocabulary` over the tokenizer inside a GGUF."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._pointer = model.vocabulary
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._pointer)
        bos = llama_cpp.llama_vocab_bos(self._pointer)
        self.bos: int | None = bos if bos >= 0 else None
        self.controls = {
            self._text(token): token
            for token in range(self.size)
            if llama_cpp.llama_vocab_is_control(self._pointer, token)
        }

    def encode(self, text: str, *, begin: bool, controls: bool) -> list[int]:
        """See `Vocabulary`; raise RefusedError for a character that the vocabulary does not have.

        Also for a word so long that llama.cpp, which finds words by recursion, would overrun its stack.
        """
        if self._alphabet is not None:
            self._check(text, self.controls if controls else ())
        data = text.encode()

        def tokenize() -> list[int]:
            ids = _filled(
                llama_cpp.llama_token,
                len(data) + 2,  # no token without a byte, but for a BOS and an EOS
                lambda room, size: llama_cpp.llama_tokenize(
                    self._pointer, data, len(data), room, size, begin, controls
                ),
            )
            return [int(token) for token in ids]

        longest = max((len(found[0]) for found in re.finditer(r"\s+|\S+", text)), default=0)
        if longest > LONGEST_WORD:
            raise RefusedError(
                BAD_REQUEST,
                f"{longest} characters without a space, or spaces without a word; the most is {LONGEST_WORD}",
                reason="word_too_long",
            )
        return tokenize() if longest <= SHALLOW_WORD else deep(tokenize)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Vocabulary`."""
        plain = [token for token in ids if not llama_cpp.llama_vocab_is_control(self._pointer, token)]
        tokens = (llama_cpp.llama_token * len(plain))(*plain)
        said: bytes = _filled(
            ctypes.c_char,
            32 * (len(plain) + 1),
            lambda room, size: llama_cpp.llama_detokenize(
                self._pointer, tokens, len(plain), room, size, False, False
            ),
        )
        return said.decode("utf-8", "replace")

    def guide(self, size: int, stop_ids: Sequence[int]) -> LLTokenizer:
        """See `Vocabulary`; raise RefusedError where not every character has tokens."""
        from llguidance.llamacpp import lltokenizer_from_vocab  # noqa: PLC0415  (memory: few ask for it)

        if self._alphabet is not None:
            raise RefusedError(
                BAD_REQUEST, "the model's vocabulary is too small to keep answers to a grammar"
            )
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            # llguidance calls llama.cpp's functions by their older names.
            return lltokenizer_from_vocab(self._pointer, n_vocab=size, eos_token=list(stop_ids) or None)

    @cached_property
    def _alphabet(self) -> frozenset[str] | None:
        """The characters that have tokens, where no bytes stand in for those that have none.

        SentencePiece vocabularies alone need it: on any other character llama.cpp ends the process.
        """
        if llama_cpp.llama_vocab_type(self._pointer) != llama_cpp.LLAMA_VOCAB_TYPE_SPM:
            return None
        every = range(self.size)
        attributes = (llama_cpp.llama_vocab_get_attr(self._pointer, token) for token in every)
        if sum(bool(found & llama_cpp.LLAMA_TOKEN_ATTR_BYTE) for found in attributes) >= BYTE_TOKENS:
            return None
        alone = {text for text in map(self._text, every) if len(text) == 1}
        return frozenset(alone | ({" "} if "▁" in alone else set()))

    def _check(self, text: str, controls: Iterable[str]) -> None:
        for control in controls:
            text = text.replace(control, "")
        for character in text:
            if character not in (self._alphabet or ()):
                raise RefusedError(
                    BAD_REQUEST,
                    f"the model's vocabulary has no {character!r} (U+{ord(character):04X})",
                    reason="unknown_character",
                )

    def _text(self, token: int) -> str:
        return str(llama_cpp.llama_vocab_get_text(self._pointer, token).decode("utf-8", "replace"))


@cache
def _load_variant() -> None:
    """Where the code for processors lies in several variants, load the one that this processor bears best.

    Runtime bundles are built so; an ordinary build has one variant, linked to the rest.
    """
    folder = Path(llama_cpp.__file__).parent / "lib"
    if any(folder.glob(VARIANTS)):
        ctypes.CDLL(str(folder / "libggml.so")).ggml_backend_load_all_from_path(os.fsencode(folder))


def _complaint() -> str:
    return "; ".join(_complaints) or "llama.cpp does not say why"


def _filled(kind: Any, size: int, fill: Callable[[Any, int], int]) -> Any:
    """Return what `fill` writes into a buffer.

    It answers how much that is, below zero when the buffer is too small, and is asked again.
    """
    room = (kind * size)()
    count = fill(room, size)
    return room[:count] if count >= 0 else _filled(kind, -count, fill)

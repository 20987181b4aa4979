"""GGUF models through llama.cpp's C interface, as llama-cpp-python binds it.

It does not know requests. One model, one sequence; positions are llama.cpp's own bookkeeping.

Laws: no context beyond what the model was trained for; no text reaches llama.cpp's tokenizer that
it would abort on; llama.cpp writes nothing to the log by itself.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from slmops.daemon.engine import Logits
from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.errors import ModelError

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR, as ggml.h numbers it (llama-cpp-python's own logger is a version behind)."""
BYTE_TOKENS = 256
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

    def __init__(self, file: Path, given_up: Callable[[], bool], adapter: Path | None = None) -> None:
        """Load `file`, until `given_up` says nobody waits; raise ModelError when that or `adapter` fails."""
        llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))
        _load_variant()
        llama_cpp.llama_backend_init()
        _complaints.clear()
        wanted = llama_cpp.llama_model_default_params()
        wanted.n_gpu_layers = 0
        progress = llama_cpp.llama_progress_callback(lambda _share, _data: not given_up())
        wanted.progress_callback = progress
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
    """An `Engine` over a loaded GGUF."""

    def __init__(self, model: LlamaModel, context: int, threads: int, micro_batch: int) -> None:
        """Make the sequence; raise ModelError when the model cannot have that context."""
        trained = llama_cpp.llama_model_n_ctx_train(model.pointer)
        if context > trained:
            raise ModelError(f"a context of {context} tokens was asked for; the model knows {trained}")
        self._model = model
        self.context = context
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(model.vocabulary)
        self.stride = min(micro_batch, context)
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = context
        wanted.n_batch = wanted.n_ubatch = self.stride
        wanted.n_seq_max = wanted.n_outputs_max = 1
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.no_perf = True
        self._pointer = llama_cpp.llama_init_from_model(model.pointer, wanted)
        if not self._pointer:
            raise ModelError(f"no context of {context} tokens could be made: {_complaint()}")
        if model.adapter:
            self._put_on(model.adapter)
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self._batch = (llama_cpp.llama_token * self.stride)()

    def _put_on(self, adapter: Any) -> None:
        adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(self._pointer, adapters, 1, scales):
            raise ModelError(f"the adapter could not be put on: {_complaint()}")

    def feed(self, ids: Sequence[int]) -> Logits:
        """See `Engine`."""
        self._batch[: len(ids)] = ids
        batch = llama_cpp.llama_batch_get_one(self._batch, len(ids))
        failed = llama_cpp.llama_decode(self._pointer, batch)
        if failed:
            raise ModelError(f"llama.cpp could not compute (code {failed}): {_complaint()}")
        logits = llama_cpp.llama_get_logits_ith(self._pointer, -1)
        return np.ctypeslib.as_array(logits, (self.vocabulary,))

    def rewind(self, length: int) -> int:
        """See `Engine`; models with a recurrent state cannot forget a part and start anew."""
        if llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1):
            return length
        llama_cpp.llama_memory_clear(self._memory, True)
        return 0


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
        """See `Vocabulary`; raise RefusedError for a character that the vocabulary does not have."""
        if self._alphabet is not None:
            self._check(text, self.controls if controls else ())
        data = text.encode()
        ids = _filled(
            llama_cpp.llama_token,
            len(data) + 2,  # no token without a byte, but for a BOS and an EOS
            lambda room, size: llama_cpp.llama_tokenize(
                self._pointer, data, len(data), room, size, begin, controls
            ),
        )
        return [int(token) for token in ids]

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

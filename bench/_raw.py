"""The loop that no server is faster than: llama.cpp's C interface, greedy, in one process.

    python bench/_raw.py MODEL.gguf SEQUENCES CONTEXT MICRO_BATCH THREADS

It reads one job a line, {"prompts": [...], "tokens": N, "again": true where the prompt was read before}, and
answers each with one line: seconds to each first token, seconds of the whole, tokens a second after the
first tokens, the ids. Several prompts are read one after another and written together.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as lc
import numpy as np


class Raw:
    """A model, a context for several sequences, and a batch."""

    def __init__(self, file: str, sequences: int, context: int, micro_batch: int, threads: int) -> None:
        self._quiet = lc.llama_log_callback(lambda *_: None)
        lc.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lc.llama_backend_init()
        loading = lc.llama_model_default_params()
        loading.n_gpu_layers = 0
        self._model = lc.llama_model_load_from_file(file.encode(), loading)
        self._vocab = lc.llama_model_get_vocab(self._model)
        self._size = lc.llama_vocab_n_tokens(self._vocab)
        asked = lc.llama_context_default_params()
        asked.n_ctx, asked.n_seq_max, asked.kv_unified = sequences * context, sequences, True
        asked.n_batch = asked.n_ubatch = micro_batch
        asked.n_threads = asked.n_threads_batch = threads
        asked.n_outputs_max, asked.no_perf = sequences, True
        self._context = lc.llama_init_from_model(self._model, asked)
        self._memory = lc.llama_get_memory(self._context)
        self._batch = lc.llama_batch_init(micro_batch, 0, 1)
        self._step = micro_batch

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        data, room = text.encode(), (lc.llama_token * (len(text) + 8))()
        count = lc.llama_tokenize(self._vocab, data, len(data), room, len(room), True, True)
        return list(room[:count])

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute rows of (token, position, sequence, wanted); return the likeliest next of those wanted."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, wanted
        if lc.llama_decode(self._context, batch):
            sys.exit("llama_decode failed")
        return [
            int(np.argmax(np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, at), (self._size,))))
            for at, row in enumerate(rows)
            if row[3]
        ]

    def read(self, sequence: int, ids: list[int], begin: int) -> int:
        """Read a prompt from `begin` on; return the first token of the answer."""
        found = 0
        for at in range(begin, len(ids), self._step):
            part = ids[at : at + self._step]
            last = at + len(part) == len(ids)
            rows = [(token, at + n, sequence, last and n == len(part) - 1) for n, token in enumerate(part)]
            found = (self.decode(rows) or [0])[0]
        return found

    def play(self, prompts: list[str], tokens: int, *, again: bool) -> dict[str, Any]:
        """Answer prompts together; see above."""
        if not again:
            lc.llama_memory_clear(self._memory, True)
        began, first = time.monotonic(), list[float]()
        news, sizes = list[int](), list[int]()
        for sequence, prompt in enumerate(prompts):
            ids = self.ids(prompt)
            kept = len(ids) - 1 if again else 0
            lc.llama_memory_seq_rm(self._memory, sequence, kept, -1)
            news.append(self.read(sequence, ids, kept))
            sizes.append(len(ids))
            first.append(time.monotonic() - began)
        read, said = time.monotonic(), [[new] for new in news]
        for step in range(tokens - 1):
            rows = [
                (new, size + step, at, True) for at, (new, size) in enumerate(zip(news, sizes, strict=True))
            ]
            news = self.decode(rows)
            for one, new in zip(said, news, strict=True):
                one.append(new)
        ended = time.monotonic()
        pace = (tokens - 1) * len(prompts) / (ended - read) if tokens > 1 else 0.0
        return {"first": first, "seconds": ended - began, "pace": pace, "said": said, "prompt": sizes}


def main() -> None:
    """Answer jobs until there are no more."""
    raw = Raw(sys.argv[1], *map(int, sys.argv[2:6]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(raw.play(job["prompts"], job["tokens"], again=job["again"])), flush=True)


if __name__ == "__main__":
    main()

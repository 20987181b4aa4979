"""Prove that a GGUF file tokenises as the tokenizer.json it was made from.

Compares llama.cpp (vocabulary only, no weights loaded) with the tokenizers library on the texts of
`corpus`, in a process of its own: llama.cpp ends the process on a vocabulary it cannot bear.

Law: either every text gave the same ids, or a BuildError shows the first that did not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmops.build.corpus import texts
from slmops.build.isolate import Progress, isolate, silent
from slmops.errors import BuildError

REMEDY = "Its tokenizer does what llama.cpp does not: build ONNX with --format onnx."


def prove(model: Path, tokenizer: Path) -> int:
    """Return the number of texts that `model` (.gguf) and `tokenizer` (.json) turned into the same ids."""
    return isolate("llama.cpp's tokenizer", _compare, silent, model, tokenizer)


def _compare(_progress: Progress, model: Path, tokenizer: Path) -> int:
    from llama_cpp import Llama  # noqa: PLC0415 - only the child carries llama.cpp
    from tokenizers import Tokenizer  # noqa: PLC0415

    said = Tokenizer.from_file(str(tokenizer))
    said.no_truncation()
    said.no_padding()
    made = Llama(str(model), vocab_only=True, verbose=False)
    corpus = texts(json.loads(tokenizer.read_text(encoding="utf-8")))
    for text in corpus:
        expected = said.encode(text, add_special_tokens=False).ids
        got = made.tokenize(text.encode(), add_bos=False, special=True)
        if got != expected:
            raise _difference(said, text, expected, got)
    _compare_ends(said, made, corpus[0])
    return len(corpus)


def _compare_ends(said: Any, made: Any, text: str) -> None:
    """Hold the tokens that tokenizer.json puts around a text, if any, against what the GGUF file puts."""
    bare, whole = (said.encode(text, add_special_tokens=ends).ids for ends in (False, True))
    got = made.tokenize(text.encode(), add_bos=True, special=True)
    if bare != whole != got:
        raise _difference(said, text, whole, got)


def _difference(said: Any, text: str, expected: list[int], got: list[int]) -> BuildError:
    at = next((i for i, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), -1)
    at = min(len(expected), len(got)) if at < 0 else at
    first, second = ([said.id_to_token(id_) for id_ in ids[at : at + 5]] for ids in (expected, got))
    return BuildError(
        f"the GGUF vocabulary does not tokenise as tokenizer.json does: in {text[:120]!r} token {at + 1} on, "
        f"expected {first}, got {second}",
        remedy=REMEDY,
    )

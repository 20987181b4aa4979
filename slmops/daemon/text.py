"""Text into token ids and back, by the model's own tokenizer.

It does not know files, engines or requests. `JsonVocabulary` is the `tokenizers` library over the source's
tokenizer.json; a GGUF without one brings its own (see `llama`).

Law: the pieces a `Writer` gives join to the text of the ids, and no piece holds half a character.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from tokenizers import Tokenizer

from slmops.errors import ModelError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

UNFINISHED = "\ufffd"
"""What decoders put where bytes are not (yet) a character."""
CHARACTER_TOKENS = 4
"""A character has at most four bytes, so that many tokens at most wait for its end."""
CONTEXT_TOKENS = 6
"""Tokens of the prompt that a Writer looks back on, for the space between prompt and answer."""


class Vocabulary(Protocol):
    """A tokenizer, as the daemon needs it."""

    @property
    def size(self) -> int:
        """One more than the highest token id."""

    @property
    def bos(self) -> int | None:
        """Id of the token that begins a sequence, if there is one."""

    @property
    def controls(self) -> dict[str, int]:
        """Control tokens by their text: what a chat template may say and a user may not."""

    def encode(self, text: str, *, begin: bool, controls: bool) -> list[int]:
        """Return the ids of `text`.

        `begin` adds what the tokenizer puts around a sequence (its BOS token); `controls` reads the
        text of a control token as that token, and not as text.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, control tokens left out."""

    def guide(self, size: int, stop_ids: Sequence[int]) -> LLTokenizer:
        """Return the vocabulary as llguidance knows it, for `size` logits; raise ImportError without it."""


class JsonVocabulary:
    """A tokenizer.json, read by the `tokenizers` library: exactly the source model's own."""

    def __init__(self, source: str, bos_token: str | None, *, add_bos: bool = False) -> None:
        """Read tokenizer.json's text; `bos_token` is the text of its BOS token.

        `add_bos` puts that before a sequence where tokenizer.json does not. Raise ModelError when
        the text is not a tokenizer.
        """
        try:
            self._tokenizer = Tokenizer.from_str(source)
        # The library raises bare Exception and nothing else.
        except Exception as error:
            raise ModelError(f"tokenizer.json cannot be read: {error}") from error
        # Many a tokenizer.json cuts and pads as its training did; a prompt is read whole or refused.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.bos = self._tokenizer.token_to_id(bos_token) if bos_token else None
        self._add_bos = add_bos
        added = self._tokenizer.get_added_tokens_decoder()
        self.controls = {token.content: number for number, token in added.items() if token.special}

    def encode(self, text: str, *, begin: bool, controls: bool) -> list[int]:
        """See `Vocabulary`."""
        tokenizer = self._tokenizer if controls else self._literal
        ids = list(tokenizer.encode(text, add_special_tokens=begin).ids)
        if begin and self._add_bos and self.bos is not None and ids[:1] != [self.bos]:
            return [self.bos, *ids]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Vocabulary`."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def guide(self, size: int, stop_ids: Sequence[int]) -> LLTokenizer:
        """See `Vocabulary`."""
        from llguidance import LLTokenizer  # noqa: PLC0415  (memory: few ask for it)

        return LLTokenizer(self._tokenizer.to_str(), n_vocab=size, eos_token=list(stop_ids) or None)

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same tokenizer, for which control tokens are text.

        A second one, made when first needed, because switching the one that another thread is
        decoding with fails.
        """
        literal = Tokenizer.from_str(self._tokenizer.to_str())
        literal.encode_special_tokens = True
        return literal


class Writer:
    """Turns ids into pieces of text as they come, whole characters only.

    It starts from the end of the prompt: whether a word begins with a space is for the decoder to
    say, and it says so only when it sees what stands before.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._settled = _tail(decode, prompt)
        """Ids whose text has been given, kept for the sake of what follows."""
        self._open: list[int] = []
        self._unfinished = 0
        """How many ids in a row have left a character unfinished."""

    def push(self, token: int) -> str:
        """Take one more id; return the text that is now certain, possibly none."""
        self._open.append(token)
        text = self._text()
        self._unfinished = self._unfinished + 1 if text.endswith(UNFINISHED) else 0
        if 0 < self._unfinished < CHARACTER_TOKENS:
            return ""
        self._unfinished = 0
        if text:
            self._settled, self._open = self._open, []
        return text

    def flush(self) -> str:
        """Return what is left at the end: a character that was begun and never finished."""
        text = self._text() if self._open else ""
        self._settled, self._open = self._open, []
        return text

    def _text(self) -> str:
        before = self._decode(self._settled)
        return self._decode(self._settled + self._open)[len(before) :]


def _tail(decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> list[int]:
    """Return the last few ids of the prompt, from where a character begins."""
    tails = (list(prompt[-count:]) for count in range(CONTEXT_TOKENS, CONTEXT_TOKENS + CHARACTER_TOKENS))
    return next((tail for tail in tails if not decode(tail).startswith(UNFINISHED)), [])

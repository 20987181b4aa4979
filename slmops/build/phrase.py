"""Turn questions into token ids and token ids into text, exactly as a server of the model does.

A completion prompt goes through the tokenizer with its own special tokens; messages go through
the chat template first, which writes them itself. Knows nothing of weights.

Law: the words are the source's: its tokenizer.json, or a GGUF's own vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from slmops.artifact.golden import Golden
from slmops.build.sketch import Sketch
from slmops.errors import ModelError


class Phrasing(Protocol):
    """The words of one model."""

    chat_template: str | None
    begin_ids: list[int]
    """What a text of nothing begins with."""
    stop_ids: frozenset[int]
    unknown_id: int | None

    def ids(self, question: Golden) -> list[int]:
        """Return the tokens that a server feeds for `question`."""

    def written(self, text: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a whole text or a whole conversation, as a model reads it in training."""

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""


@dataclass(frozen=True)
class Words:
    """A tokenizer.json, and what a server must know beside it."""

    tokenizer: Path
    special_tokens: Mapping[str, str]
    """bos_token, eos_token, unk_token, pad_token: those that have a name."""
    stop_ids: tuple[int, ...]
    add_bos: bool
    """A text begins with the BOS token, whether tokenizer.json puts it there or not."""
    chat_template: str | None
    bos_id: int | None = None
    """None: that of bos_token."""


class TokenizerPhrasing:
    """The words of a tokenizer.json, by the tokenizers library."""

    def __init__(self, words: Words) -> None:
        """Read the tokenizer."""
        self._tokenizer = Tokenizer.from_file(str(words.tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = words.special_tokens
        bos_id = words.bos_id
        if bos_id is None:
            bos_id = self._tokenizer.token_to_id(words.special_tokens.get("bos_token", ""))
        self._begins = bos_id if words.add_bos else None
        self.chat_template = words.chat_template
        self.stop_ids = frozenset(words.stop_ids)
        self.begin_ids = [id_ for id_ in [bos_id, *words.stop_ids] if id_ is not None][:1]
        self.unknown_id = self._tokenizer.token_to_id(words.special_tokens.get("unk_token", ""))

    def ids(self, question: Golden) -> list[int]:
        """Return the tokens that a server feeds for `question`."""
        if question.messages is None:
            return self.written(question.prompt or "")
        return self._chat(question.messages, answer=True)

    def written(self, text: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a whole text or a whole conversation, as a model reads it in training."""
        if not isinstance(text, str):
            return self._chat(text, answer=False)
        ids = list(self._tokenizer.encode(text).ids)
        return ids if self._begins is None or ids[:1] == [self._begins] else [self._begins, *ids]

    def _chat(self, messages: Sequence[Mapping[str, str]], *, answer: bool) -> list[int]:
        text = render_chat(self.chat_template, messages, self._special, answer=answer)
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""
        return str(self._tokenizer.decode(list(ids)))


class CheckpointPhrasing(TokenizerPhrasing):
    """The words of a Hugging Face folder."""

    def __init__(self, checkpoint: Sketch) -> None:
        """Read the tokenizer.json of a folder, with weights or without; raise ModelError when it has none."""
        super().__init__(
            Words(
                checkpoint.words(),
                special_tokens=checkpoint.special_tokens,
                stop_ids=checkpoint.stop_ids,
                add_bos=checkpoint.add_bos,
                chat_template=checkpoint.chat_template,
                bos_id=checkpoint.bos_id,
            )
        )


class GgufPhrasing:
    """The words inside a GGUF, by llama.cpp, which ends the process on a character it has no token for."""

    unknown_id: int | None = None

    def __init__(self, file: Path) -> None:
        """Read the vocabulary of `file`, and not its weights."""
        from llama_cpp import Llama  # noqa: PLC0415 - carried by child processes alone

        llama = Llama(str(file), vocab_only=True, n_ctx=8, n_batch=8, verbose=False)
        self._llama = llama
        self.chat_template = llama.metadata.get("tokenizer.chat_template")
        self.begin_ids = [id_ for id_ in (llama.token_bos(), llama.token_eos()) if id_ >= 0][:1]
        end_of_turn = llama.metadata.get("tokenizer.ggml.eot_token_id", llama.token_eos())
        self.stop_ids = frozenset([llama.token_eos(), int(end_of_turn)])

    def ids(self, question: Golden) -> list[int]:
        """Return the tokens that a server feeds for `question`."""
        if question.messages is None:
            return self.written(question.prompt or "")
        return self._chat(question.messages, answer=True)

    def written(self, text: str | Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a whole text or a whole conversation, as a model reads it in training."""
        if not isinstance(text, str):
            return self._chat(text, answer=False)
        return list(self._llama.tokenize(text.encode(), special=True))

    def _chat(self, messages: Sequence[Mapping[str, str]], *, answer: bool) -> list[int]:
        begin, end = (self.text_of_special(id_) for id_ in (self._llama.token_bos(), self._llama.token_eos()))
        special = {"bos_token": begin, "eos_token": end}
        text = render_chat(self.chat_template, messages, special, answer=answer)
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""
        return str(self._llama.detokenize(list(ids)).decode(errors="replace"))

    def text_of_special(self, id_: int) -> str:
        """Return how a special token is written; nothing for one that the vocabulary lacks."""
        return str(self._llama.detokenize([id_], special=True).decode()) if id_ >= 0 else ""


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, str]],
    special_tokens: Mapping[str, str],
    *,
    answer: bool = True,
) -> str:
    """Return `messages` as transformers renders them; with `answer`, the assistant's turn is opened."""
    if not template:
        raise ModelError(
            "the model has no chat template to write messages with", remedy="Give plain texts and prompts."
        )
    try:
        return _compiled(template).render(
            messages=list(messages), add_generation_prompt=answer, tools=None, **special_tokens
        )
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template cannot be rendered: {error}",
            remedy="Mend chat_template.jinja, or give golden prompts as plain prompts.",
        ) from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    house = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    house.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    house.globals["strftime_now"] = lambda form: datetime.now(UTC).astimezone().strftime(form)
    return house.from_string(template)

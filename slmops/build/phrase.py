"""Turn questions into token ids and token ids into text, exactly as a server of the model does.

A completion prompt goes through the tokenizer with its own special tokens; messages go through
the chat template first, which writes them itself. Knows nothing of weights.

Law: the words are the source's: its tokenizer.json, or a GGUF's own vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from slmops.artifact.golden import Golden
from slmops.build.checkpoint import Checkpoint
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

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""


class CheckpointPhrasing:
    """The words of a Hugging Face folder, by the tokenizers library."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the checkpoint's tokenizer.json."""
        if checkpoint.tokenizer is None:
            raise ModelError(
                f"{checkpoint.folder} has no tokenizer.json",
                remedy="Save one once: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
            )
        self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer))
        self._special = checkpoint.special_tokens
        self._begins = checkpoint.bos_id if checkpoint.add_bos else None
        self.chat_template = checkpoint.chat_template
        self.stop_ids = frozenset(checkpoint.stop_ids)
        self.begin_ids = [id_ for id_ in [checkpoint.bos_id, *checkpoint.stop_ids] if id_ is not None][:1]
        self.unknown_id = self._tokenizer.token_to_id(self._special.get("unk_token", ""))

    def ids(self, question: Golden) -> list[int]:
        """Return the tokens that a server feeds for `question`."""
        if question.messages is None:
            ids = list(self._tokenizer.encode(question.prompt or "").ids)
            return ids if self._begins is None or ids[:1] == [self._begins] else [self._begins, *ids]
        text = render_chat(self.chat_template or "", question.messages, self._special)
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""
        return str(self._tokenizer.decode(list(ids)))


class GgufPhrasing:
    """The words inside a GGUF, by llama.cpp."""

    unknown_id: int | None = None

    def __init__(self, llama: Any) -> None:
        """Take an open `llama_cpp.Llama`."""
        self._llama = llama
        self.chat_template = llama.metadata.get("tokenizer.chat_template")
        self.begin_ids = [id_ for id_ in (llama.token_bos(), llama.token_eos()) if id_ >= 0][:1]
        end_of_turn = llama.metadata.get("tokenizer.ggml.eot_token_id", llama.token_eos())
        self.stop_ids = frozenset([llama.token_eos(), int(end_of_turn)])

    def ids(self, question: Golden) -> list[int]:
        """Return the tokens that a server feeds for `question`."""
        if question.messages is None:
            return list(self._llama.tokenize((question.prompt or "").encode(), special=True))
        begin, end = (self.text_of_special(id_) for id_ in (self._llama.token_bos(), self._llama.token_eos()))
        text = render_chat(
            self.chat_template or "", question.messages, {"bos_token": begin, "eos_token": end}
        )
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def text(self, ids: Sequence[int]) -> str:
        """Return what a server answers for `ids`."""
        return str(self._llama.detokenize(list(ids)).decode(errors="replace"))

    def text_of_special(self, id_: int) -> str:
        """Return how a special token is written; nothing for one that the vocabulary lacks."""
        return str(self._llama.detokenize([id_], special=True).decode()) if id_ >= 0 else ""


def render_chat(
    template: str, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]
) -> str:
    """Return the text that opens the assistant's turn after `messages`, as transformers renders it."""
    house = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    house.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    house.globals["strftime_now"] = datetime.now(UTC).astimezone().strftime
    try:
        found = house.from_string(template)
        return found.render(messages=list(messages), add_generation_prompt=True, tools=None, **special_tokens)
    except TemplateError as error:
        raise ModelError(
            f"the model's chat template cannot be rendered: {error}",
            remedy="Mend chat_template.jinja, or give golden prompts as plain prompts.",
        ) from error

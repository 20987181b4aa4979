"""Which tokens begin and end a text, from the three JSON files that speak of it.

Pure. Knows nothing of files or of any runtime. Law: tokenizer.json has the last word, because it is
what tokenises when the model is served; the configs are asked only where it is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class SpecialTokens:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, parsed; an absent one is empty."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    named: Mapping[str, Any]

    @property
    def texts(self) -> dict[str, str]:
        """Return bos_token, eos_token, unk_token, pad_token: those that are named."""
        found = {name: self.config.get(name) or self.named.get(name) for name in _NAMES}
        texts = {
            name: token["content"] if isinstance(token, dict) else token for name, token in found.items()
        }
        return {name: text for name, text in texts.items() if text}

    @property
    def add_bos(self) -> bool:
        """Return whether a text gets the begin token put before it."""
        template = self._template
        return bool(self.config.get("add_bos_token")) if template is None else _leading(template) is not None

    def bos_id(self, config: Mapping[str, Any]) -> int | None:
        """Return the begin token: the template's, the tokenizer's, or the one `config` names."""
        text = _leading(self._template or {}) or self.texts.get("bos_token")
        return next(iter([*self._id(text), *_ids(config.get("bos_token_id"))]), None)

    def stop_ids(self, config: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
        """Return every id that ends an answer, the tokenizer's own first."""
        own = self._id(self.texts.get("eos_token"))
        named = [*own, *_ids(config.get("eos_token_id")), *_ids(generation.get("eos_token_id"))]
        return tuple(dict.fromkeys(named))

    @cached_property
    def _by_text(self) -> dict[str, int]:
        vocab = self.tokenizer.get("model", {}).get("vocab")
        added = {token["content"]: token["id"] for token in self.tokenizer.get("added_tokens", [])}
        return {**vocab, **added} if isinstance(vocab, dict) else added

    def _id(self, text: str | None) -> list[int]:
        return [self._by_text[text]] if text in self._by_text else []

    @property
    def _template(self) -> Mapping[str, Any] | None:
        processor = self.tokenizer.get("post_processor") or {}
        steps = processor.get("processors", [processor])
        return next((step for step in steps if step.get("type") == "TemplateProcessing"), None)


def _leading(template: Mapping[str, Any]) -> str | None:
    first = (template.get("single") or [{}])[0]
    text = first.get("SpecialToken", {}).get("id")
    return None if text is None else str(text)


def _ids(said: Any) -> list[int]:
    return [] if said is None else [said] if isinstance(said, int) else list(said)

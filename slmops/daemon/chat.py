"""A conversation or a prompt into token ids.

Chat templates are rendered as transformers renders them: the same sandbox, the same names, no BOS
but the template's own. It does not know the clock (`now` is an argument), engines or HTTP.

Law: no text in a message becomes a control token. A prompt of /v1/completions is the model's raw
input, control tokens included, as in transformers: text of strangers belongs in messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2 import nodes as jinja
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.text import Vocabulary
from slmops.errors import ModelError

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that Unicode promises never to make characters of."""


class _Generation(Extension):
    """`{% generation %}`, which tells trainers what the model itself says, and a server nothing."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[jinja.Node]:
        """Return what stands inside the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A Jinja chat template, ready to render."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """Compile `source`, which may name `special_tokens`; raise ModelError when it does not parse."""
        house = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        house.filters["tojson"] = _tojson
        house.globals["raise_exception"] = _raise_exception
        try:
            self._template = house.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template does not parse: line {error.lineno}: {error}") from error
        self._special_tokens = special_tokens

    def render(self, messages: Sequence[dict[str, str]], now: datetime) -> str:
        """Return the prompt up to where the assistant speaks; raise RefusedError if the template does."""
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=None,
                documents=None,
                strftime_now=now.strftime,
                **self._special_tokens,
            )
        except TemplateError as error:
            raise RefusedError(BAD_REQUEST, f"the chat template refuses these messages: {error}") from error


def completion_ids(vocabulary: Vocabulary, prompt: str) -> list[int]:
    """Return the ids of a raw prompt, with one BOS where the tokenizer puts it, and never two."""
    ids = vocabulary.encode(prompt, begin=True, controls=True)
    return ids[1:] if vocabulary.bos is not None and ids[:2] == [vocabulary.bos] * 2 else ids


def chat_ids(
    vocabulary: Vocabulary, template: ChatTemplate, messages: Sequence[dict[str, str]], now: datetime
) -> list[int]:
    """Return the ids of a conversation; what users wrote is text, whatever it looks like."""
    controls = _any_of(vocabulary.controls)
    if not any(controls.search(message["content"]) for message in messages):
        rendered = template.render(messages, now)
        return vocabulary.encode(rendered, begin=False, controls=True)
    everything = "".join(message["content"] for message in messages)
    mark = next(mark for mark in MARKS if mark not in everything)
    marked = [{**message, "content": _mark(message["content"], controls, mark)} for message in messages]
    ids: list[int] = []
    for part in controls.split(template.render(marked, now)):
        if part in vocabulary.controls:
            ids.append(vocabulary.controls[part])
        else:
            ids += vocabulary.encode(part.replace(mark, ""), begin=False, controls=False)
    return ids


def _any_of(controls: dict[str, int]) -> re.Pattern[str]:
    """Return a pattern that finds any control token, and keeps it when splitting."""
    longest_first = sorted(filter(None, controls), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "(?!)")


def _mark(content: str, controls: re.Pattern[str], mark: str) -> str:
    """Break every control token in `content` with a mark that is taken out again after rendering."""
    return controls.sub(lambda found: found[0][0] + mark + found[0][1:], content)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001, FBT002
    """Like transformers' filter and unlike Jinja's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)

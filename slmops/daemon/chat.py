"""A conversation or a prompt into token ids.

Chat templates are rendered as transformers renders them: the same sandbox, the same names, no BOS
but the template's own. It does not know the clock (`now` is an argument), engines or HTTP.

Law: no text in a message or a tool becomes a control token. A prompt of /v1/completions is the model's raw
input, control tokens included, as in transformers: text of strangers belongs in messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2 import nodes as jinja
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.text import Vocabulary
from slmops.daemon.tools import OPEN
from slmops.errors import ModelError

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Code points that Unicode promises never to make characters of."""

NAMED = frozenset(
    [
        *("role", "content", "name", "tool_calls", "tool_call_id", "id", "type"),
        *("function", "arguments", "description", "parameters"),
    ]
)
"""What templates look for in messages and tools, by name."""


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
            named = house.parse(source).find_all(jinja.Name)
            self._template = house.from_string(source)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template does not parse: line {error.lineno}: {error}") from error
        self._special_tokens = special_tokens
        self.knows_tools = any(each.name == "tools" for each in named)
        """Whether the model can be offered tools."""
        self.tagged = OPEN in source
        """Whether the model writes a call of a tool between marks; else it is JSON alone."""

    def render(
        self, messages: Sequence[dict[str, Any]], now: datetime, tools: Sequence[dict[str, Any]] = ()
    ) -> str:
        """Return the prompt up to where the assistant speaks; raise RefusedError if the template does."""
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                tools=list(tools) or None,
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
    vocabulary: Vocabulary,
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    now: datetime,
    tools: Sequence[dict[str, Any]] = (),
) -> list[int]:
    """Return the ids of a conversation; what users wrote is text, whatever it looks like.

    Raise RefusedError where there are tools, or calls of them, and the template knows none.
    """
    called = any("tool_calls" in message or message["role"] == "tool" for message in messages)
    if (tools or called) and not template.knows_tools:
        raise RefusedError(
            BAD_REQUEST,
            "this model's chat template knows no tools",
            reason="not_supported",
            param="tools" if tools else "messages",
        )
    try:
        return _rendered_ids(vocabulary, template, messages, now, tools)
    except RecursionError as error:
        raise RefusedError(BAD_REQUEST, "a tool or a call is nested too deep") from error


def _rendered_ids(
    vocabulary: Vocabulary,
    template: ChatTemplate,
    messages: Sequence[dict[str, Any]],
    now: datetime,
    tools: Sequence[dict[str, Any]],
) -> list[int]:
    controls = _any_of(vocabulary.controls)
    everything = "\n".join(_texts([*messages, *tools]))
    if not controls.search(everything):
        rendered = template.render(messages, now, tools)
        return vocabulary.encode(rendered, begin=False, controls=True)
    free = (mark for mark in MARKS if mark not in everything and _escaped(mark) not in everything)
    mark = next(free, "")
    if not mark:
        raise RefusedError(BAD_REQUEST, "the messages hold all of Unicode's noncharacters", param="messages")
    turns = [{**_marked(message, controls, mark), "role": message["role"]} for message in messages]
    rendered = template.render(turns, now, _marked(tools, controls, mark))
    ids: list[int] = []
    for part in controls.split(rendered):
        if part in vocabulary.controls:
            ids.append(vocabulary.controls[part])
        else:
            said = part.replace(mark, "").replace(_escaped(mark), "")
            ids += vocabulary.encode(said, begin=False, controls=False)
    return ids


def _any_of(controls: dict[str, int]) -> re.Pattern[str]:
    """Return a pattern that finds any control token, and keeps it when splitting."""
    longest_first = sorted(filter(None, controls), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if longest_first else "(?!)")


def _texts(said: Any) -> Iterator[str]:
    """Yield every text in what messages and tools say, names included."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict):
        for name, value in said.items():
            yield name
            yield from _texts(value)
    elif isinstance(said, list):
        for value in said:
            yield from _texts(value)


def _marked(said: Any, controls: re.Pattern[str], mark: str) -> Any:
    """Break every control token in what is said with a mark that is taken out again after rendering."""
    if isinstance(said, str):
        return controls.sub(lambda found: found[0][0] + mark + found[0][1:], said)
    if isinstance(said, dict):
        return {
            name if name in NAMED else _marked(name, controls, mark): _marked(value, controls, mark)
            for name, value in said.items()
        }
    if isinstance(said, list | tuple):
        return [_marked(value, controls, mark) for value in said]
    return said


def _escaped(mark: str) -> str:
    """Return how JSON writes the mark where a template wants ASCII."""
    return json.dumps(mark)[1:-1]


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001, FBT002
    """Like transformers' filter and unlike Jinja's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)

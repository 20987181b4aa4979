"""Answers that keep to a grammar: which of all tokens may come next, by llguidance.

The same for every runtime, since it is logits that are masked. It does not know engines or HTTP. llguidance
is imported, and the vocabulary made known to it, when the first such answer is asked for: most daemons never
are, and both cost memory.

Laws: what was masked and taken to its end keeps to the grammar; an answer ends only where the grammar may; a
grammar that cannot be kept to is refused, in bounded time and memory, before anything is computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from slmops.daemon.api import ChatRequest, CompletionRequest
from slmops.daemon.deep import deep
from slmops.daemon.refusal import BAD_REQUEST, RefusedError
from slmops.daemon.tools import CLOSE, OPEN
from slmops.daemon.turns import JsonObjectFormat, JsonSchemaFormat, Tool

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from slmops.daemon.engine import Logits
    from slmops.daemon.text import Vocabulary

LONGEST = 65536
"""Characters of a grammar: they bound how deep rules name each other, and how long they take to read."""
LONGEST_GBNF = 16384
"""Characters of one in GBNF: reading it takes time by the square of its length."""
WHITESPACE = r"( |\n {0,16})?"
"""What may stand between the parts of JSON. A model that is unsure writes white space wherever it may."""
STUCK = ("NoExtensionBias", "Parser Error: token")
"""How llguidance begins to say, in words of its insides, that nothing may come next."""
LONGEST_COMPLAINT = 400
"""Characters of what is told to be wrong with a grammar."""
ANY_TEXT = r"""TEXT: /(.|\n)*/
OTHER: /[^{\[\s](.|\n)*/"""
"""How a Lark grammar says any text, and any that could not be JSON."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Constraint:
    """One answer's way through a grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: Sequence[int], param: str) -> None:
        """`param` is the field of the request that asks for it."""
        self._matcher = matcher
        self._stop_ids = list(stop_ids)
        self._param = param

    def mask(self, logits: Logits) -> None:
        """Make what may not come next impossible, in place; raise RefusedError where nothing may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].view(np.bool_)
        if not self._matcher.is_accepting():
            allowed[self._stop_ids] = False
        if self._matcher.is_error() or not allowed.any():
            raise self._lost()
        np.putmask(logits, ~allowed, -np.inf)

    def take(self, token: int) -> bool:
        """Note what came next, no stop id; say whether the answer is complete: nothing more may come."""
        if not self._matcher.consume_token(token):
            raise self._lost()
        return bool(self._matcher.is_stopped())

    def _lost(self) -> RefusedError:
        why = self._matcher.get_error().partition("\n")[0]
        if not why or why.startswith(STUCK):
            why = "a rule of it has no end, or the model has no token for what must come next"
        return _bad(self._param, f"the answer cannot keep to it: {why}")


class Grammars:
    """Makes constraints for the answers of one model."""

    def __init__(
        self, vocabulary: Vocabulary, size: int, stop_ids: Sequence[int], *, tagged: bool = False
    ) -> None:
        """`size` is the number of logits; `tagged` models write a call of a tool between marks."""
        self._vocabulary, self._size, self._stop_ids = vocabulary, size, tuple(stop_ids)
        self._tagged = tagged

    def constraint(self, asked: ChatRequest | CompletionRequest) -> Constraint | None:
        """Return what the answer to `asked` must keep to, None where it is free.

        Raise RefusedError, naming what is wrong, for a grammar or schema that cannot be kept to.
        """
        if asked.grammar is not None:
            return self._made("grammar", lambda: _lark(asked.grammar or ""))
        if isinstance(asked, ChatRequest):
            form = asked.response_format
            if asked.demanded or any(tool.function.strict for tool in asked.offered):
                return self._made("tools", lambda: self._calls(asked))
            if isinstance(form, JsonObjectFormat):
                return self._made("response_format", lambda: f"start: {_json(ANY_OBJECT)}")
            if isinstance(form, JsonSchemaFormat):
                schema = form.json_schema.schema
                return self._made("response_format.json_schema.schema", lambda: f"start: {_json(schema)}")
        return None

    def _made(self, param: str, write: Callable[[], str]) -> Constraint:
        """Return the constraint by the Lark grammar that `write` writes."""
        if not available():
            raise _cannot(param, "its runtime has no llguidance; put the package into it")
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415  (memory: see above)

        limits = LLParserLimits(max_lexer_states=20_000, max_grammar_size=100_000, verbose_errors=False)
        lark = write()
        if len(lark) > LONGEST:
            raise _bad(param, f"expected at most {LONGEST} characters, got {len(lark)}")
        grammar = LLMatcher.grammar_from_lark(lark)
        try:
            tokenizer = self._tokenizer
        except ValueError as error:
            raise _cannot(param, "llguidance cannot read the model's tokenizer") from error
        matcher = deep(lambda: LLMatcher(tokenizer, grammar, log_level=0, limits=limits))
        if matcher.is_error():
            raise _bad(param, _complaint(matcher.get_error(), param))
        return Constraint(matcher, self._stop_ids, param)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return self._vocabulary.guide(self._size, self._stop_ids)

    def _calls(self, asked: ChatRequest) -> str:
        """Return the grammar of an answer with calls, as the model writes them.

        Where a call is demanded it is one call and nothing else, or several if these were asked for.
        """
        tools, key = asked.demanded or asked.offered, "arguments" if self._tagged else "parameters"
        rules = [f"any: {' | '.join(f'call{at}' for at in range(len(tools)))}", ANY_TEXT]
        for at, tool in enumerate(tools):
            head = _said(f'{{"name": {json.dumps(tool.function.name)}, "{key}": ')
            rules.append(f"call{at}: {head} {_json(_arguments(tool))} {_said('}')}")
        if not self._tagged:
            more = f"({_said('; ')} any)*" if asked.parallel_tool_calls else ""
            start = f"any {more}" if asked.demanded else "any | OTHER?"
            return "\n".join([f"start: {start}", *rules])
        line, opened, closed = _said("\n"), self._mark(OPEN), self._mark(CLOSE)
        rules.append(f"call: {line} any {line} {closed}")
        if asked.demanded:
            more = f"({line} {opened} call)*" if asked.parallel_tool_calls else ""
            return "\n".join([f"start: {opened} call {more}", *rules])
        # Text as such could spell the mark, so it ends at the first one that is spelled.
        opening = f"open: TEXT {opened}" if opened == OPEN else f"open[lazy]: TEXT {opened}"
        times = "?" if asked.parallel_tool_calls is False else "*"
        return "\n".join([f"start: (open call){times} TEXT", opening, *rules])

    def _mark(self, text: str) -> str:
        """Return how a grammar says a mark: by its token where there is one: text is not spelled so."""
        ids = self._vocabulary.encode(text, begin=False, controls=True)
        one = len(ids) == 1 and self._tokenizer.is_special_token(ids[0])
        return text if one else _said(text)


def available() -> bool:
    """Say whether llguidance is here."""
    return find_spec("llguidance") is not None


def _arguments(tool: Tool) -> dict[str, Any]:
    """Return the schema of a call's arguments; those that it does not name are not written."""
    return {"type": "object", "additionalProperties": False, **(tool.function.parameters or {})}


def _json(schema: dict[str, Any]) -> str:
    """Return how a Lark grammar says JSON by a schema."""
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})


def _said(text: str) -> str:
    """Return how a Lark grammar says a text."""
    return json.dumps(text)


def _lark(grammar: str) -> str:
    """Return a grammar in Lark's notation, out of that or GBNF."""
    from llguidance.gbnf_to_lark import any_to_lark, is_lark_syntax  # noqa: PLC0415

    if is_lark_syntax(grammar):
        return grammar
    if len(grammar) > LONGEST_GBNF:
        raise _bad("grammar", f"expected at most {LONGEST_GBNF} characters of GBNF, got {len(grammar)}")
    try:
        return str(any_to_lark(grammar))
    # The converter raises bare Exception for rules that are missing.
    except Exception as error:
        raise _bad("grammar", f"neither Lark nor GBNF: {error}") from error


def _cannot(param: str, why: str) -> RefusedError:
    message = f"{param}: this daemon cannot keep answers to a grammar: {why}"
    return RefusedError(BAD_REQUEST, message, reason="not_supported", param=param)


def _bad(param: str, why: str) -> RefusedError:
    return RefusedError(BAD_REQUEST, f"{param}: {why}", reason="invalid_grammar", param=param)


def _complaint(error: str, param: str) -> str:
    """Return what llguidance complains of, in a line and without excerpts.

    Of a schema without its place in the grammar, which nobody wrote.
    """
    lines = takewhile(lambda line: not re.match(r"\s*\d+ \| ", line), error.splitlines())
    said = " ".join(" ".join(lines).split())
    if param != "grammar":
        said = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", said)
    return said[:LONGEST_COMPLAINT]

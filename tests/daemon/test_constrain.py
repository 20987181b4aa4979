"""Answers that keep to a grammar, whatever the model would rather say."""

import json
from contextlib import suppress

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders

from slmops.daemon.api import ChatRequest, CompletionRequest, parse
from slmops.daemon.constrain import Grammars
from slmops.daemon.refusal import RefusedError
from slmops.daemon.text import JsonVocabulary
from slmops.daemon.tools import CLOSE, OPEN, Calls

END, SIZE = 1, 330
LAMP = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "level": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["on", "level"],
    "additionalProperties": False,
}
SCHEMAS = [
    LAMP,
    {"enum": ["a", "Grün", 3, None]},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"$ref": "#/$defs/d", "$defs": {"d": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}},
]


def lamp(name="lamp"):
    return {"type": "function", "function": {"name": name, "parameters": LAMP}}


def chat(**said):
    return parse(ChatRequest, json.dumps({"messages": [{"role": "user", "content": "x"}], **said}).encode())


def formed(schema):
    said = {"name": "s", "schema": schema}
    return chat(response_format={"type": "json_schema", "json_schema": said})


@pytest.fixture(scope="module")
def vocabulary(tiny):
    return JsonVocabulary(tiny.make_tokenizer()[0].to_str(), "<|begin|>")


@pytest.fixture(scope="module")
def grammars(vocabulary):
    return Grammars(vocabulary, SIZE, [END])


def speak(vocabulary, constraint, seed, most=400):
    """What a model without any sense says, as ids, and whether it came to an end."""
    chance, ids = np.random.default_rng(seed), []
    while len(ids) < most:
        logits = chance.normal(size=SIZE).astype(np.float32)
        constraint.mask(logits)
        token = int(logits.argmax())
        if token == END:
            return vocabulary.decode(ids)
        ids.append(token)
        if constraint.take(token):
            return vocabulary.decode(ids)
    raise AssertionError(vocabulary.decode(ids))


@pytest.mark.parametrize("schema", SCHEMAS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_the_model_would_say_the_answer_keeps_to_its_schema(vocabulary, grammars, schema, seed):
    said = speak(vocabulary, grammars.constraint(formed(schema)), seed)
    jsonschema_rs.validate(schema, json.loads(said))


def test_some_json_object_is_an_object(vocabulary, grammars):
    constraint = grammars.constraint(chat(response_format={"type": "json_object"}))
    (brace,) = vocabulary.encode("{", begin=False, controls=False)
    logits = np.zeros(SIZE, np.float32)
    constraint.mask(logits)
    assert np.flatnonzero(np.isfinite(logits)).tolist() == [brace]


@pytest.mark.parametrize("grammar", ['start: "on" | "off" "!"+', 'root ::= "on" | "off" "!"+'])
def test_a_grammar_may_be_lark_or_gbnf(vocabulary, grammars, grammar):
    asked = parse(CompletionRequest, json.dumps({"prompt": "x", "grammar": grammar}).encode())
    said = {speak(vocabulary, grammars.constraint(asked), seed) for seed in range(12)}
    assert "on" in said
    assert all(each == "on" or each.rstrip("!") == "off" for each in said)


def test_an_answer_ends_only_where_the_grammar_may(grammars):
    constraint = grammars.constraint(chat(grammar='start: "ab" "c"*'))
    logits = np.zeros(SIZE, np.float32)
    constraint.mask(logits)
    assert np.isneginf(logits[END])


def test_what_asks_for_no_form_is_free(grammars):
    assert grammars.constraint(chat(response_format={"type": "text"}, tools=[lamp()])) is None
    assert grammars.constraint(parse(CompletionRequest, b'{"prompt": "x"}')) is None


@pytest.mark.parametrize("token", [None, True, False])
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_call_that_must_be_is_a_call(tiny, token, tagged, several):
    tokenizer = tiny.make_tokenizer()[0]
    if token is not None:
        tokenizer.add_tokens([AddedToken(mark, special=token, normalized=False) for mark in (OPEN, CLOSE)])
    vocabulary = JsonVocabulary(tokenizer.to_str(), "<|begin|>")
    grammars = Grammars(vocabulary, SIZE, [END], tagged=tagged)
    asked = chat(tools=[lamp(), lamp("beam")], tool_choice="required", parallel_tool_calls=several)
    for seed in range(8):
        calls = Calls(["lamp", "beam"])
        said, found = calls.push(speak(vocabulary, grammars.constraint(asked), seed, 4000))
        left, more = calls.flush()
        assert (said + left).strip() == ""
        assert len(found + more) == 1 or several
        assert found + more
        for call in found + more:
            assert call.name in {"lamp", "beam"}
            jsonschema_rs.validate(LAMP, json.loads(call.arguments))


@pytest.mark.parametrize("token", [None, True, False])
@pytest.mark.parametrize("tagged", [False, True])
def test_a_call_that_may_be_is_as_strict_as_its_function(tiny, token, tagged):
    tokenizer = tiny.make_tokenizer()[0]
    if token is not None:
        tokenizer.add_tokens([AddedToken(mark, special=token, normalized=False) for mark in (OPEN, CLOSE)])
    vocabulary = JsonVocabulary(tokenizer.to_str(), "<|begin|>")
    grammars = Grammars(vocabulary, SIZE, [END], tagged=tagged)
    strict = {**lamp()["function"], "strict": True}
    asked = chat(tools=[{"type": "function", "function": strict}])

    def says(text):
        constraint = grammars.constraint(asked)
        for said in vocabulary.encode(text, begin=False, controls=True):
            logits = np.zeros(SIZE, np.float32)
            constraint.mask(logits)
            if np.isneginf(logits[said]):
                return "never"
            constraint.take(said)
        logits = np.zeros(SIZE, np.float32)
        constraint.mask(logits)
        return "so far" if np.isneginf(logits[END]) else "whole"

    def call(arguments):
        said = f'{{"name": "lamp", "{"arguments" if tagged else "parameters"}": {arguments}}}'
        return f"Hm.\n{OPEN}\n{said}\n{CLOSE}" if tagged else said

    assert says("Just text. {} <b>") == says("") == "whole"
    assert says(call('{"on": true, "level": 3}')) == "whole"
    assert says(call('{"on": true, "level": 3}').partition("true")[0]) == "so far"
    assert says(call('{"loud": true}')) == says(call('{"on": 1}')) == "never"


def test_the_function_that_was_named_is_the_one_that_is_called(vocabulary, grammars):
    choice = {"type": "function", "function": {"name": "beam"}}
    asked = chat(tools=[lamp(), lamp("beam")], tool_choice=choice)
    assert json.loads(speak(vocabulary, grammars.constraint(asked), 1))["name"] == "beam"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (lambda: formed({"type": "objekt"}), "objekt"),
        (lambda: formed({"$ref": "#/nowhere"}), "nowhere"),
        (lambda: formed({"type": "string", "pattern": "(a"}), "unclosed group"),
        (lambda: formed({"not": {}}), "not"),
        (lambda: formed({"type": "integer", "minimum": 5, "maximum": 1}), "minimum"),
        (lambda: formed({"x": "y" * 70_000}), "65536"),
        (lambda: chat(grammar="start: nothing"), "nothing"),
        (lambda: chat(grammar="root ::= nothing"), "nothing"),
        (lambda: chat(grammar="root ::= ("), "GBNF"),
        (lambda: chat(grammar="colours"), "grammar"),
        (lambda: chat(grammar="root ::= " + '"a" ' * 5000), "GBNF"),
        (
            lambda: chat(
                tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
                tool_choice="required",
            ),
            "tools",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(grammars, asked, named):
    with pytest.raises(RefusedError, match=named) as refused:
        grammars.constraint(asked())
    assert (refused.value.status, refused.value.reason) == (400, "invalid_grammar")
    assert refused.value.param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (lambda: chat(grammar="start: start"), "grammar"),
        (lambda: chat(grammar="start: a\na: b\nb: a"), "grammar"),
        (lambda: chat(grammar='start: "a" <|end|>'), "grammar"),
        (lambda: formed({"enum": ["<|end|>"]}), "response_format.json_schema.schema"),
    ],
)
def test_where_nothing_may_come_next_that_is_said_in_words_of_ours(vocabulary, grammars, asked, param):
    with pytest.raises(RefusedError, match="a rule of it has no end, or the model has no token") as refused:
        speak(vocabulary, grammars.constraint(asked()), 0)
    assert (refused.value.param, refused.value.reason) == (param, "invalid_grammar")


def test_a_tokenizer_that_llguidance_does_not_know_is_no_fault_of_the_daemon(tiny):
    tokenizer = tiny.make_tokenizer()[0]
    tokenizer.decoder = decoders.Metaspace()
    grammars = Grammars(JsonVocabulary(tokenizer.to_str(), "<|begin|>"), SIZE, [END])

    with pytest.raises(RefusedError, match="cannot read the model's tokenizer") as refused:
        grammars.constraint(formed(LAMP))
    assert (refused.value.status, refused.value.reason) == (400, "not_supported")


def chain(count, link, last):
    rules = {f"{at:x}": link(f"#/d/{at + 1:x}") for at in range(count)}
    return {"$ref": "#/d/0", "d": {**rules, f"{count:x}": last}}


@pytest.mark.parametrize(
    "asked",
    [
        lambda: formed(chain(1200, lambda to: {"properties": {"a": {"$ref": to}}}, {})),
        lambda: formed(chain(1500, lambda to: {"items": {"$ref": to}}, {})),
        lambda: formed(chain(2500, lambda to: {"$ref": to}, {})),
        lambda: formed(
            {"allOf": [{"anyOf": [{"pattern": f"^{a}{b}"} for a in "abcdefgh"]} for b in range(12)]}
        ),
        lambda: formed({"type": "string", "pattern": "^(a|b|ab|ba)*(.{0,500}x){20}$"}),
        lambda: formed({"type": "array", "minItems": 10**9, "items": {"type": "string"}}),
        lambda: chat(grammar="start: " + "(" * 60_000),
        lambda: chat(
            grammar="start: r0\n" + "\n".join(f'r{at}: "a" r{at + 1}' for at in range(3500)) + '\nr3500: "b"'
        ),
        lambda: chat(grammar="root ::= " + "(" * 16_000),
        lambda: chat(grammar="start: R\nR: " + " & ".join(f"/(.*a.{{{at}}}b.*)/" for at in range(12))),
    ],
)
def test_what_takes_long_to_understand_is_bounded(grammars, asked):
    with suppress(RefusedError):
        grammars.constraint(asked()).mask(np.zeros(SIZE, np.float32))


def test_a_text_that_is_a_control_token_is_refused_when_it_can_be_no_text(vocabulary, grammars):
    constraint = grammars.constraint(formed({"enum": ["<|end|>"]}))
    with pytest.raises(RefusedError, match="cannot keep"):
        speak(vocabulary, constraint, 0)


def test_a_tokenizer_inside_a_gguf_serves_as_well(tiny, tmp_path):
    llama = pytest.importorskip("slmops.daemon.llama")
    tiny.write_gguf(tmp_path / "model.gguf", tiny.random_weights())
    vocabulary = llama.GgufVocabulary(llama.LlamaModel(tmp_path / "model.gguf"))
    grammars = Grammars(vocabulary, tiny.VOCABULARY, [END])
    constraint, ids = grammars.constraint(formed(LAMP)), []
    chance = np.random.default_rng(5)
    while True:
        logits = chance.normal(size=tiny.VOCABULARY).astype(np.float32)
        constraint.mask(logits)
        ids.append(int(logits.argmax()))
        if constraint.take(ids[-1]):
            break
    jsonschema_rs.validate(LAMP, json.loads(vocabulary.decode(ids)))

"""A real daemon under OpenAI's own client, and under schemathesis, which asks what its document allows."""

import json
from collections import Counter
from contextlib import contextmanager

import openai
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

pytestmark = [pytest.mark.journey, pytest.mark.filterwarnings("default")]

TOOLS = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<|{{ m.role if m.role == 'assistant' else 'user' }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}<|assistant|>"
)
LAMP = {
    "type": "object",
    "properties": {"room": {"enum": ["hall", "attic"]}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "lamp", "description": "Switch a lamp.", "parameters": LAMP}}
HI = [{"role": "user", "content": "hi"}]
ASKED = 60
"""Requests of each sort that schemathesis makes."""


@pytest.fixture(scope="module")
def serve(tiny, run_daemon, tmp_path_factory):
    """A daemon that serves a model without any sense, whose template knows tools, in either format."""

    @contextmanager
    def serve(kind):
        folder = tmp_path_factory.mktemp("conformance") / "artifact"
        tiny.make_artifact(folder, kind, tiny.random_weights(), context=1024)
        (folder / "chat_template.jinja").write_text(TOOLS, encoding="utf-8")
        with run_daemon(folder) as running, running.client():
            yield running.url

    return serve


@pytest.fixture(scope="module")
def url(serve):
    with serve("gguf") as url:
        yield url


def of(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(url):
    with of(url) as client:
        yield client


def test_the_models_are_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("parrot", "model")


def test_a_conversation_is_answered_and_its_tokens_are_counted(client):
    said = client.chat.completions.create(model="parrot", messages=HI, max_completion_tokens=5, logprobs=True)
    (choice,) = said.choices
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    assert len(choice.logprobs.content) == said.usage.completion_tokens == 5
    assert said.usage.total_tokens == said.usage.prompt_tokens + 5


def test_a_stream_joins_to_the_answer_in_one_piece_and_ends_with_its_usage(client):
    asked = {
        "model": "parrot",
        "messages": HI,
        "max_tokens": 12,
        "logprobs": True,
        "extra_body": {"cache_prompt": False},
    }
    whole = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    scores = [each for chunk in chunks if (found := chunk.choices[0].logprobs) for each in found.content]
    assert text == whole.choices[0].message.content
    assert scores == whole.choices[0].logprobs.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (last.choices, last.usage) == ([], whole.usage)


def test_a_text_goes_on(client):
    said = client.completions.create(model="parrot", prompt="on", max_tokens=3, echo=True, logprobs=2)
    (choice,) = said.choices
    assert choice.text.startswith("on")
    assert len(choice.logprobs.tokens) == said.usage.prompt_tokens + 3
    again = client.completions.create(model="parrot", prompt=[5, 6], max_tokens=2, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in again][-1] == "length"


def test_texts_become_vectors(client):
    # The client asks for base64, and unpacks it, unless told otherwise.
    packed = client.embeddings.create(model="parrot", input=["one", "two"])
    plain = client.embeddings.create(model="parrot", input=["one", "two"], encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="parrot", input="one", dimensions=3)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "lamp"}}])
def test_a_call_that_must_be_is_made_and_its_answer_is_understood(client, choice):
    asked = {"model": "parrot", "tools": [TOOL], "max_tokens": 200}
    said = client.chat.completions.create(messages=HI, tool_choice=choice, **asked).choices[0]
    (call,) = said.message.tool_calls
    assert (said.finish_reason, call.function.name) == ("tool_calls", "lamp")
    assert set(json.loads(call.function.arguments)) == {"room", "on"}
    answered = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    turns = [*HI, said.message, answered]
    more = client.chat.completions.create(messages=turns, tool_choice="none", **asked | {"max_tokens": 4})
    assert more.choices[0].message.tool_calls is None


def test_a_call_of_a_stream_is_whole_and_no_mark_of_it_is_text(client):
    with client.chat.completions.stream(
        model="parrot", messages=HI, tools=[TOOL], tool_choice="required", max_tokens=200
    ) as stream:
        said = stream.get_final_completion().choices[0]
    (call,) = said.message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"room", "on"}
    assert (said.finish_reason, said.message.content or "") == ("tool_calls", "")


def test_an_answer_keeps_to_its_schema_or_grammar(client):
    form = {"type": "json_schema", "json_schema": {"name": "lamp", "schema": LAMP, "strict": True}}
    said = client.chat.completions.create(
        model="parrot", messages=HI, response_format=form, max_tokens=200, temperature=1.5
    )
    assert set(json.loads(said.choices[0].message.content)) == {"room", "on"}
    assert said.choices[0].finish_reason == "stop"
    free = {"grammar": 'root ::= "yes" | "no"'}
    said = client.completions.create(model="parrot", prompt="on?", extra_body=free)
    assert said.choices[0].text in {"yes", "no"}


def test_every_format_keeps_to_schemas_and_calls_tools(serve):
    form = {"type": "json_schema", "json_schema": {"name": "lamp", "schema": LAMP}}
    asked = {"model": "parrot", "messages": HI, "max_tokens": 200}
    with serve("onnx") as url, of(url) as client:
        said = client.chat.completions.create(response_format=form, **asked).choices[0].message
        assert set(json.loads(said.content)) == {"room", "on"}
        said = (
            client.chat.completions.create(tools=[TOOL], tool_choice="required", **asked).choices[0].message
        )
        assert set(json.loads(said.tool_calls[0].function.arguments)) == {"room", "on"}


@pytest.mark.parametrize(
    ("asked", "kind", "param", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model", "model_not_found"),
        ({"extra_body": {"colour": 1}}, openai.BadRequestError, "colour", "unknown_field"),
        ({"temperature": 3}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"messages": []}, openai.BadRequestError, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "x " * 2000}]},
            openai.BadRequestError,
            "messages",
            "context_length_exceeded",
        ),
        ({"logit_bias": {"5000": 1}}, openai.BadRequestError, "logit_bias", "invalid_value"),
        ({"extra_body": {"grammar": "start: nothing"}}, openai.BadRequestError, "grammar", "invalid_grammar"),
    ],
)
def test_what_cannot_be_answered_is_refused_as_clients_know_it(client, asked, kind, param, code):
    with pytest.raises(kind) as refused:
        client.chat.completions.create(**{"model": "parrot", "messages": HI, **asked})
    assert (refused.value.param, refused.value.code) == (param, code)


def test_who_asks_for_it_is_answered_without_the_fields_that_are_not_known(client):
    raw = client.chat.completions.with_raw_response.create(
        model="parrot",
        messages=HI,
        max_tokens=1,
        store=True,
        extra_body={"färbe": 1},
        extra_headers={"x-slmops-lenient": "1"},
    )
    assert sorted(raw.headers["x-slmops-ignored"].split(", ")) == ["f\\u00e4rbe", "store"]


def test_whatever_is_asked_the_answer_is_as_the_document_says(url):
    schema, session, statuses = (
        schemathesis.openapi.from_url(f"{url}/openapi.json"),
        requests.Session(),
        Counter(),
    )
    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]
    for found in schema.get_all_operations():
        operation = found.ok()
        posts = operation.method.upper() == "POST"
        for mode in (
            [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if posts else [GenerationMode.POSITIVE]
        ):

            @settings(
                max_examples=ASKED,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                answer = case.call(base_url=url, session=session, timeout=60)
                statuses[answer.status_code] += 1
                case.validate_response(answer, checks=wanted)

            ask()
    assert statuses[200] > ASKED / 4
    assert statuses[400] > ASKED
    assert set(statuses) <= {200, 400, 404}

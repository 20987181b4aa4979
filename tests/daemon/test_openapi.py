"""The HTTP interface as a document."""

import json

import jsonschema_rs
import msgspec
import pytest

from slmops.daemon.answer import Answer, Telling, embedded, labelled, usage
from slmops.daemon.openapi import document
from slmops.daemon.refusal import error_body
from slmops.daemon.scores import Scored
from slmops.daemon.tools import Calls

CALL = '<tool_call>{"name": "lamp", "arguments": {"on": true}}</tool_call>'


def check(name, said):
    """Raise where an answer is not as the document says."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    jsonschema_rs.validate(schema, said)


def whole(*, chat, text="on", scored=None, calls=None):
    answer = Answer(chat=chat, id="x-0123456789ab", created=1, release="m:1", digest="")
    telling = Telling(answer, stream=False, scores=scored is not None, calls=calls)
    telling.add(text, scored or ())
    return json.loads(telling.end("stop", usage(1, 2, 1)))


def test_every_reference_leads_somewhere():
    said = document()
    names = set(said["components"]["schemas"])
    for found in json.dumps(said).split('"$ref": "')[1:]:
        assert found.partition('"')[0].removeprefix("#/components/schemas/") in names


def test_the_document_is_json_and_always_the_same():
    assert msgspec.json.encode(document()) == msgspec.json.encode(document())


@pytest.mark.parametrize(
    "scored", [None, [Scored("on", None), Scored("x", -1.0, (("x", -1.0), ("y", -2.0)))]]
)
def test_answers_are_as_the_document_says(scored):
    check("Chat", whole(chat=True, scored=scored))
    check("Completion", whole(chat=False, scored=scored))


def test_calls_are_as_the_document_says():
    check("Chat", whole(chat=True, text=CALL, calls=Calls(["lamp"])))


def test_vectors_labels_and_errors_are_as_the_document_says():
    check("Embeddings", json.loads(embedded([[0.5]], release="m:1", tokens=3)))
    check("Embeddings", json.loads(embedded([[0.5]], release="m:1", tokens=3, packed=True)))
    check("Classification", json.loads(labelled(["a"], [[1.0]], release="m:1", digest="", tokens=3)))
    check("Error", error_body(400, "no", param="messages"))

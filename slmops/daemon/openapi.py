"""The HTTP interface as an OpenAPI 3.1 document: what may be asked, and what is answered.

Pure. Requests are told from the very types that read them (`api`); answers as `answer` and the router shape
them. The admin interface is not in it: it is no one's but the operator's.

Law: what the daemon answers keeps to this document, errors too.
"""

from __future__ import annotations

from typing import Any

import msgspec

from slmops.daemon import api

REFERENCE = "#/components/schemas/{name}"
Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
EVENT: Schema = {
    "description": "Of a stream: the data is a piece of the answer in JSON; of its last event, [DONE].",
    "type": "object",
    "properties": {"data": TEXT},
    "required": ["data"],
}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}


def document() -> Schema:
    """Return the document."""
    kinds = list(api.kind_of.values())
    references, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    asked = dict(zip(api.kind_of, references, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "slmops daemon",
            "version": "1",
            "summary": "Small language models on this device, asked as OpenAI's are.",
        },
        "paths": {
            "/v1/chat/completions": _post("Answer a conversation.", asked["chat"], "Chat", streams=True),
            "/v1/completions": _post("Go on from a text.", asked["completion"], "Completion", streams=True),
            "/v1/embeddings": _post("Make vectors of texts.", asked["embeddings"], "Embeddings"),
            "/v1/classify": _post("Label texts.", asked["classify"], "Classification"),
            "/v1/models": _get("List the versions that are served.", {200: _json("Models")}),
            "/healthz": _get("Say whether the daemon lives.", {200: _json("Alive")}),
            "/readyz": _get(
                "Say whether the current version answers, and which it is to who may ask it.",
                {200: _json("Ready"), 503: _json("Ready")},
            ),
            "/metrics": _get("Tell what was counted.", {200: _content("text/plain", TEXT)}),
        },
        "components": {
            "schemas": {**components, **_answers()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(summary: str, asked: Schema, answered: str, *, streams: bool = False) -> Schema:
    told = _json(answered)
    if streams:
        told["content"]["text/event-stream"] = {"schema": EVENT}
    told["headers"] = {
        "x-slmops-ignored": {"schema": TEXT, "description": "Fields that were not known, and left out."}
    }
    lenient = {
        "name": "x-slmops-lenient",
        "in": "header",
        "description": "1: fields that are not known are left out, not refused.",
        "schema": TEXT,
    }
    return {
        "post": {
            "summary": summary,
            "parameters": [lenient],
            "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
            "responses": {"200": told, "default": _json("Error")},
        }
    }


def _get(summary: str, answers: dict[int, Schema]) -> Schema:
    told = {str(status): answer for status, answer in answers.items()}
    return {"get": {"summary": summary, "responses": {**told, "default": _json("Error")}}}


def _json(name: str) -> Schema:
    return _content("application/json", _ref(name))


def _content(kind: str, schema: Schema) -> Schema:
    return {"description": "", "content": {kind: {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _just(*words: str) -> Schema:
    return {"enum": list(words)}


def _object(always: Schema, sometimes: Schema | None = None) -> Schema:
    """Return the schema of an object that holds this and nothing else."""
    properties = {**always, **(sometimes or {})}
    return {
        "type": "object",
        "properties": properties,
        "required": list(always),
        "additionalProperties": False,
    }


def _answers() -> Schema:
    """Return the schemas of all answers, by name."""
    return {
        "Error": _object(
            {"error": _object({"message": TEXT, "type": TEXT, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL})}
        ),
        "Chat": _answer("chat.completion", {"message": _ref("Said"), "logprobs": _or_null(_ref("Scores"))}),
        "Completion": _answer("text_completion", {"text": TEXT, "logprobs": _or_null(_ref("Columns"))}),
        "Said": _object(
            {"role": _just("assistant"), "content": TEXT_OR_NULL}, {"tool_calls": _list(_ref("Called"))}
        ),
        "Called": _object(
            {
                "id": TEXT,
                "type": _just("function"),
                "function": _object({"name": TEXT, "arguments": TEXT}),
            }
        ),
        "Scores": _object({"content": _list(_scored({"top_logprobs": _list(_scored({}))}))}),
        "Columns": _object(
            {
                "tokens": _list(TEXT),
                "token_logprobs": _list(_or_null(NUMBER)),
                "top_logprobs": _list(_or_null({"type": "object", "additionalProperties": NUMBER})),
                "text_offset": _list(COUNT),
            }
        ),
        "Usage": _object(
            {
                "prompt_tokens": COUNT,
                "completion_tokens": COUNT,
                "total_tokens": COUNT,
                "prompt_tokens_details": _object({"cached_tokens": COUNT}),
            }
        ),
        "Embeddings": _object(
            {
                "object": _just("list"),
                "data": _list(
                    _object(
                        {
                            "object": _just("embedding"),
                            "index": COUNT,
                            "embedding": {"anyOf": [_list(NUMBER), TEXT]},
                        }
                    )
                ),
                "model": TEXT,
                "usage": _object({"prompt_tokens": COUNT, "total_tokens": COUNT}),
            }
        ),
        "Classification": _object(
            {
                "object": _just("list"),
                "model": TEXT,
                "system_fingerprint": TEXT_OR_NULL,
                "data": _list(
                    _object(
                        {
                            "object": _just("classification"),
                            "index": COUNT,
                            "label": TEXT,
                            "scores": {"type": "object", "additionalProperties": NUMBER},
                        }
                    )
                ),
                "usage": _ref("Usage"),
            }
        ),
        "Models": _object({"object": _just("list"), "data": _list(_ref("Model"))}),
        "Model": {
            "type": "object",
            "properties": {
                "id": TEXT,
                "object": _just("model"),
                "created": COUNT,
                "owned_by": TEXT,
                "release": TEXT,
                "digest": TEXT,
            },
            "required": ["id", "object", "created", "owned_by"],
        },
        "Alive": _object({"alive": {"const": True}}),
        "Ready": {
            "type": "object",
            "properties": {
                "ready": {"type": "boolean"},
                "release": TEXT,
                "digest": TEXT,
                "scores": {"type": "boolean"},
                "labels": {"type": "object", "additionalProperties": TEXT},
            },
            "required": ["ready"],
        },
    }


def _answer(kind: str, said: Schema) -> Schema:
    choice = {"index": COUNT, **said, "finish_reason": _just("stop", "length", "tool_calls")}
    return _object(
        {
            "id": TEXT,
            "object": _just(kind),
            "created": COUNT,
            "model": TEXT,
            "system_fingerprint": TEXT_OR_NULL,
            "choices": _list(_object(choice)),
            "usage": _ref("Usage"),
        }
    )


def _scored(more: Schema) -> Schema:
    return _object({"token": TEXT, "logprob": _or_null(NUMBER), "bytes": _list(COUNT), **more})

"""What a request is refused with, in words for who wrote it."""

import json

import pytest

from slmops.daemon import api, complaint
from slmops.daemon.refusal import RefusedError

TURN = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 2}, "n: only 1 is supported"),
        ({"max_token": 2}, "unknown field `max_token`: did you mean `max_tokens`?"),
        ({"zzz": 2}, "unknown field `zzz`"),
        ({"temperature": 5}, "temperature: Expected `float` <= 2.0"),
        ({"messages": [{**TURN, "rolle": 1}]}, "unknown field `messages[0].rolle`"),
        (
            {"messages": [{**TURN, "role": "usr"}]},
            f"messages[0].role: expected {complaint.ROLES}: Invalid value 'usr'",
        ),
        (
            {"messages": [{**TURN, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type: only parts of type text are supported",
        ),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type: expected text, json_object or json_schema: Invalid value 'xml'",
        ),
        (
            {"tools": [TOOL], "tool_choice": "always"},
            "tool_choice: expected none, auto, required or a function by name: Invalid enum value 'always'",
        ),
        ({"tools": [{**TOOL, "type": "x"}]}, "tools[0].type: expected function: Invalid enum value 'x'"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name: expected 1 to 64 letters, digits, dots, dashes and underscores",
        ),
        (
            {"logit_bias": {"-1": 1}},
            "logit_bias: expected token ids, in decimal, and what is added to their logits",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_would_be_taken(more, said):
    with pytest.raises(RefusedError) as refused:
        api.parse(api.ChatRequest, json.dumps({"messages": [TURN], **more}).encode())
    assert str(refused.value) == said

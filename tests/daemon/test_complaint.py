"""What a request is refused with, in words for who wrote it."""

import json

import pytest

from slmops.daemon import api, complaint
from slmops.daemon.refusal import RefusedError

TURN = {"role": "user", "content": "hi"}


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
    ],
)
def test_a_refusal_names_the_field_and_what_would_be_taken(more, said):
    with pytest.raises(RefusedError) as refused:
        api.parse(api.ChatRequest, json.dumps({"messages": [TURN], **more}).encode())
    assert str(refused.value) == said

"""A device's events as lines of JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import DocumentError
from slmops.telemetry.events import RequestFinished, parse, render

seconds = st.floats(min_value=0, max_value=1e6, allow_nan=False)
events = st.builds(
    RequestFinished,
    time=seconds,
    release=st.text(),
    digest=st.text(),
    status=st.integers(100, 599),
    prompt_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    first_token_seconds=st.none() | seconds,
    seconds=seconds,
)


@given(events)
def test_an_event_survives_its_line(event):
    assert parse(render(event)) == event


@given(events)
def test_an_event_is_one_line(event):
    assert len(render(event).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"event": "swap"},
        {"status": "200"},
        {"status": True},
        {"prompt": "what the user asked"},
        {"seconds": None},
    ],
)
def test_a_line_that_is_not_such_an_event_is_refused(change):
    line = json.loads(render(RequestFinished(1.0, "a:1", "", 200, 1, 1, None, 0.5)))
    with pytest.raises(DocumentError):
        parse(json.dumps(line | change))


def test_half_a_line_is_refused():
    line = render(RequestFinished(1.0, "a:1", "", 200, 1, 1, None, 0.5))
    with pytest.raises(DocumentError, match="not JSON"):
        parse(line[: len(line) // 2])

"""A device's events as lines of JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.errors import DocumentError
from slmops.telemetry.events import RequestFinished, pack, parse, render, unpack

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
    label=st.sampled_from(["", "current", "previous", "candidate"]),
    kind=st.sampled_from(["", "chat", "completion", "embeddings", "classify"]),
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
        {"label": None},
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


def test_a_line_from_before_there_were_labels_is_read():
    line = json.loads(render(RequestFinished(1.0, "a:1", "", 200, 1, 1, None, 0.5, "current", "chat")))
    del line["label"], line["kind"]
    found = parse(json.dumps(line))
    assert (found.label, found.kind) == ("", "")


@given(st.lists(st.tuples(st.integers(1, 1 << 40), events)))
def test_events_survive_being_packed(numbered):
    assert unpack(json.loads(json.dumps(pack(numbered)))) == numbered


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"served": [], "events": [[1, 1.0, 0, 200, 1, 1, None, 0.5]]},
        {"served": [["a:1", "", "", ""]], "events": [[1, 1.0, 0, 200, 1, 1, None]]},
        {"served": [["a:1", "", "", ""]], "events": [[1, 1.0, 0, "200", 1, 1, None, 0.5]]},
        {"served": [["a:1", "", "", ""]], "events": [["x", 1.0, 0, 200, 1, 1, None, 0.5]]},
    ],
)
def test_what_was_not_packed_so_is_refused(said):
    with pytest.raises(DocumentError):
        unpack(said)

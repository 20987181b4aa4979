"""What the daemon writes down of itself."""

import io
import json
import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon import records
from slmops.errors import ModelError
from slmops.telemetry.events import RequestFinished

EVENT = RequestFinished(1.0, "demo:1.0.0", "sha256:00", 200, 7, 5, 0.1, 0.5, "current", "chat")
log = logging.getLogger("slmops.daemon")


@pytest.fixture
def written():
    """Write records of a form, and return the lines."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level

    def write(form, act):
        stream = io.StringIO()
        records.begin(form, stream)
        act()
        return stream.getvalue().splitlines()

    yield write
    root.handlers[:] = before
    root.setLevel(level)
    records.requests.setLevel(logging.NOTSET)


def test_a_machine_hears_of_every_request_one_object_a_line(written):
    (line,) = written("json", lambda: records.finished(EVENT, "abc", "kiosk"))
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "event": "request finished",
        "request": "abc",
        "key": "kiosk",
        "release": "demo:1.0.0",
        "digest": "sha256:00",
        "label": "current",
        "kind": "chat",
        "status": 200,
        "prompt_tokens": 7,
        "output_tokens": 5,
        "first_token_seconds": 0.1,
        "seconds": 0.5,
    }


def test_a_person_hears_of_those_that_failed_by_our_doing(written):
    def act():
        records.finished(EVENT, "abc", "")
        records.finished(replace(EVENT, status=429), "def", "")
        records.finished(replace(EVENT, status=500), "ghi", "")

    (line,) = written("text", act)
    assert "WARNING request finished request=ghi" in line
    assert "status=500" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_of_an_error_that_is_not_ours_the_words_are_not_told(written, form):
    def act():
        try:
            int("the prompt of a user")
        except ValueError:
            log.exception("a request failed", extra={"request": "abc", "prompt": "the prompt of a user"})

    (line,) = written(form, act)
    assert "the prompt" not in line
    assert "ValueError" in line
    assert "test_records.py:" in line


def fail():
    raise ModelError("the model has 3 layers; expected 4")


def test_of_an_error_of_ours_the_words_are_told(written):
    def act():
        try:
            fail()
        except ModelError:
            log.exception("a worker failed", extra={"pid": 17, "crashes": 2})

    (line,) = written("json", act)
    told = json.loads(line)
    assert (told["error"], told["message"], told["pid"]) == (
        "ModelError",
        "the model has 3 layers; expected 4",
        17,
    )


@given(st.text())
def test_a_record_is_one_line_whatever_it_says(text):
    record = logging.LogRecord("slmops", logging.INFO, "", 0, "%s", (text,), None)
    assert len(records.Lines().format(record).splitlines()) == 1
    assert len(records.JsonLines().format(record).splitlines()) == 1
    assert json.loads(records.JsonLines().format(record))["event"] == text


@pytest.mark.parametrize("given", ["abc", "3f2a-77", "trace:00.1_x"])
def test_an_id_that_a_client_gives_is_kept(given):
    assert records.request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 65, "a\nb", "-x", "é"])
def test_one_that_is_unfit_is_replaced(given):
    made = records.request_id(given)
    assert made != given
    assert records.request_id(made) == made

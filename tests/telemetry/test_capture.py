"""Prompts and answers that are kept where somebody asked for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.telemetry.capture import DAY, FILE, LEAST_BYTES, LONGEST, OVERLAP, Capture, chosen, read
from slmops.telemetry.events import RequestFinished

EVENT = RequestFinished(1000.0, "demo:1.0.0", "sha256:00", 200, 7, 3, 0.1, 0.5, "current", "chat")


def event(time):
    return RequestFinished(time, "demo:1.0.0", "sha256:00", 200, 7, 3, 0.1, 0.5, "current", "chat")


def test_what_is_kept_is_redacted_and_says_what_was(tmp_path):
    capture = Capture(tmp_path, 1.0)
    assert capture.offer(EVENT, "abc", "I am jo@example.org", "Hello, your card 4111 1111 1111 1111")
    (sample,) = read(tmp_path).samples
    assert sample["prompt"] == "I am <email>"
    assert sample["answer"] == "Hello, your card <card>"
    assert sample["redacted"] == ["card", "email"]
    assert (sample["release"], sample["request"], sample["label"]) == ("demo:1.0.0", "abc", "current")
    assert b"jo@example" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_of_a_share_of_nothing_nothing_is_kept(tmp_path):
    capture = Capture(tmp_path, 0.0)
    assert not any(capture.offer(EVENT, f"r{number}", "hello", "you") for number in range(50))
    assert not (tmp_path / FILE).exists()


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_chosen_at_a_share_is_chosen_at_every_larger_one(request_id, one, other):
    assert chosen(request_id, 1.0)
    if chosen(request_id, min(one, other)):
        assert chosen(request_id, max(one, other))


def test_about_the_share_that_was_asked_for_is_chosen():
    assert 900 < sum(chosen(f"request-{number}", 0.1) for number in range(10_000)) < 1100


def test_what_is_older_than_its_days_goes_from_the_disk_too(tmp_path):
    capture = Capture(tmp_path, 1.0, days=2)
    capture.offer(event(0.0), "a", "the first zebra", "x")
    capture.offer(event(DAY), "b", "the second", "x")
    capture.offer(event(2.5 * DAY), "c", "the third", "x")
    capture.close()
    assert [each["prompt"] for each in read(tmp_path).samples] == ["the second", "the third"]
    assert b"zebra" not in (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("limit", [1, LEAST_BYTES, 2 * LEAST_BYTES])
def test_it_stays_within_its_bytes_and_keeps_the_newest(tmp_path, limit):
    capture = Capture(tmp_path, 1.0, limit_bytes=limit)
    for number in range(200):
        assert capture.offer(event(float(number)), str(number), "word " * 1000, "more " * 500)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= max(limit, LEAST_BYTES)
    kept = [int(each["time"]) for each in read(tmp_path).samples]
    assert kept == list(range(200 - len(kept), 200))
    assert len(kept) > 20


def test_a_long_text_is_cut_after_it_was_redacted(tmp_path):
    Capture(tmp_path, 1.0).offer(EVENT, "a", "x " * (LONGEST // 2 - 4) + "4111 1111 1111 1111", "")
    (sample,) = read(tmp_path).samples
    assert len(sample["prompt"]) <= LONGEST
    assert "4111" not in sample["prompt"]


def test_what_a_cut_went_through_is_not_kept_though_much_before_it_was_taken_out(tmp_path):
    keys = "AKIAIOSFODNN7EXAMPLE " * 200
    whole = LONGEST + OVERLAP
    text = keys + "x " * ((whole - len(keys)) // 2 - 4) + " jo.bloggs@example.org"
    Capture(tmp_path, 1.0).offer(EVENT, "one", text, "")
    (sample,) = read(tmp_path).samples
    assert "jo." not in sample["prompt"]
    assert len(sample["prompt"]) < LONGEST


def test_what_cannot_be_kept_is_counted(tmp_path):
    (tmp_path / FILE).mkdir()
    capture = Capture(tmp_path, 1.0)
    assert not capture.offer(EVENT, "a", "x", "y")
    assert (capture.kept, capture.lost) == (0, 1)


def test_reading_after_a_number_gives_what_came_since(tmp_path):
    capture = Capture(tmp_path, 1.0)
    for number in range(5):
        capture.offer(EVENT, str(number), "x", "y")
    first = read(tmp_path, limit=2)
    rest = read(tmp_path, first.samples[-1]["id"], name=first.name)
    assert [each["request"] for each in [*first.samples, *rest.samples]] == list("01234")
    assert read(tmp_path / "missing").samples == []


@given(st.text(), st.text())
@settings(max_examples=25, deadline=None)
def test_any_text_can_be_kept(tmp_path_factory, prompt, answer):
    folder = tmp_path_factory.mktemp("capture")
    capture = Capture(folder, 1.0)
    assert capture.offer(EVENT, "a", prompt, answer)
    capture.close()

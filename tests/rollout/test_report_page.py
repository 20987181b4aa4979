import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

from _course import BEGAN, course
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.rollout.report import parse, render, report
from slmops.rollout.report_page import NAMED, draw

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Sees that every element that is opened is closed, and keeps what stands between them."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            (name, value) for name, value in attrs if name in {"href", "src"} or name.startswith("on")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def account(*args, made=None, **kwargs):
    found = made or course(*args, **kwargs)
    return parse(render(report(found.entry, found.lines, found.events, made=found.events[-1].at)))


def test_the_page_needs_nothing_outside_itself_and_runs_nothing():
    found = read(draw(account(30, sick=(20,), lost=(22,))))

    assert "script" not in found.tags
    assert found.links == []
    assert "url(http" not in "".join(found.text)


def test_what_a_device_answered_is_words_and_never_markup():
    page = draw(account(30, sick=(20,)))

    found = read(page)
    assert "<script>alert" not in page
    assert "<script>alert('five')</script>" in found.text
    assert "b" not in found.tags


@settings(max_examples=25)
@given(st.text(), st.text(), st.text())
def test_whatever_was_said_the_page_is_well_formed(name, message, answer):
    made = course(2, sick=(1,))
    failed = [{"question": answer, "expected": [answer], "answer": answer}]
    said = {"failed": failed, "log": [message, 3], "remedy": answer}
    evidence = made.lines[1].evidence | said
    sick = replace(made.lines[1], device=name, message=message, evidence=evidence)
    made.entry = replace(made.entry, fleet=message, operator=name, options={name: {"deep": message}})
    made.lines = [made.lines[0], sick]

    page = draw(account(made=made))

    read(page)
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)  # noqa: S314 - our own


def test_every_device_that_did_not_end_well_is_named_however_many_there_are():
    lost = tuple(range(500, 520))

    found = read(draw(account(NAMED + 1, lost=lost)))

    assert {f"pump-{number:04d}" for number in lost} <= set(found.text)
    assert f"{NAMED + 1 - len(lost):,} more devices stand in report.json." in found.text


def test_the_numbers_of_the_gate_stand_with_their_units_and_their_bounds():
    text = " ".join(read(draw(account(30, sick=(20,)))).text)

    assert "tok/s (promise) ≥ 4" in text
    assert "tok/s (before)" in text
    assert "first token (before) ≤ 750 ms" in text
    assert "0.9 nats" in text
    assert "memory (promise) ≤ 268.44 MB" in text
    assert "211.00 MB" in text


def test_the_same_account_gives_the_same_page():
    said = account(12)

    assert draw(said) == draw(said)


def test_a_rollout_that_nobody_took_part_in_has_a_page():
    made = course(1)

    read(draw(report(made.entry, [], [], made=BEGAN)))

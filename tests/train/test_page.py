import json
import math
import re
from html.parser import HTMLParser
from itertools import count
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.build.ledger import Ledger, Score, Stage, parse, render
from slmops.train.page import draw

STAGES = (
    Stage("teacher", "as it came", 656_384, 2_630_112, "sha256:" + "0a" * 32,
          {"kl_mean": 0.0, "top1": 1.0, "bits_per_byte": 0.822, "perplexity": 6.19},
          {"endings": Score(0.71, 0.647, 0.773, 200)}, {"decode_per_second": 812.0, "threads": 2}),
    Stage("pruned", "3 of 8 layers cut", 251_904, 1_012_224, "sha256:" + "1b" * 32,
          {"kl_mean": 1.62, "top1": 0.41, "bits_per_byte": 1.41}, {"endings": Score(0.55, 0.48, 0.62, 200)}),
    Stage("distilled", "learned from 1,200 stories", 251_904, 1_012_224, "sha256:" + "2c" * 32,
          {"kl_mean": 0.114, "kl_error": 0.006, "top1": 0.87, "bits_per_byte": 0.861},
          {"endings": Score(0.68, 0.615, 0.745, 200)}, {"decode_per_second": 1899.0}),
)  # fmt: skip


def point(step):
    parts = {"cross-entropy": 2 + 7 / step, "divergence": 0.1 + 6 / step}
    loss = 0.1 * parts["cross-entropy"] + 0.9 * parts["divergence"]
    return {
        "step": step, "steps": 50, "tokens": 4096 * step, "loss": loss,
        "rate": 1e-3 * min(step / 5, 1), "gradient": 1.0, "tokens_per_second": 8000.0, "seconds": 0.5 * step,
        "seconds_left": 0.0, "validation": 1.0, "parts": parts,
    }  # fmt: skip


def answer(stages=STAGES, **said):
    return {
        "what": "distill",
        "model": "tiny-student",
        "teacher": "tiny",
        "base": None,
        "ledger": json.loads(render(Ledger({"texts": "held-out.txt", "machine": ""}, tuple(stages)))),
        "curve": [point(step) for step in range(1, 51)],
        "validations": [
            {"step": step, "loss": 7 / (step + 1) + 0.5, "parts": {}} for step in (0, 25, 40, 50)
        ],
        "best": {"step": 50, "loss": 0.637},
        "steps": 50,
        "tokens": 204_800,
        "seconds": 25.0,
        "resumed_from": None,
        "stopped_early": False,
        "setting": {"epochs": 3, "steps": None, "batch_tokens": 4096, "rate": 1e-3},
        "teaching": {"divergence": "forward-kl", "weight": 0.9},
        "data": [{"file": "stories.txt", "samples": 1200, "tokens": 350_123}],
        "left_out": {"too long": 3, "unwritable": 0},
        "samples": [{"prompt": "Once", "before": "the the", "after": "upon a time", "teacher": "there was"}],
    } | said


class Read(HTMLParser):
    """Collects what a browser would make of a page: elements with their attributes, and words by element."""

    VOID = ("meta",)

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append((self.open[-1] if self.open else "", data))

    @property
    def said(self):
        return " ".join(" ".join(data for _, data in self.words).replace("\u00a0", " ").split())


def plots(page):
    found = re.findall(r'<svg class="plot.*?</svg>', page, re.DOTALL)
    return [ET.fromstring(svg) for svg in found]  # noqa: S314 - we wrote it


def of_class(svg, name):
    return [each for each in svg.iter() if name in each.get("class", "").split()]


def rows(page):
    """Return the heads of the ledger's table, and the texts of the cells of its rows."""
    table = re.search(r'<table class="ledger">(.*?)</table>', page, re.DOTALL)[1]
    found = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    texts = [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in found]
    return texts[0], [[text.strip() for text in row] for row in texts[1:]]


def test_every_element_is_closed_and_the_drawings_are_sound_xml_with_a_title_and_a_description():
    page = draw(answer())
    ids = [attributes["id"] for _, attributes in Read(page).elements if "id" in attributes]

    assert Read(page).open == []
    assert len(ids) == len(set(ids))
    for svg in plots(page):
        assert svg.get("aria-labelledby").split() == [svg.find("title").get("id"), svg.find("desc").get("id")]
        assert svg.find("desc").text


def test_every_step_is_in_the_table_with_a_cell_under_each_head():
    heads, body = rows(draw(answer()))

    assert heads == [
        "step",
        "parameters",
        "size",
        "KL",
        "same first",
        "bits/byte",
        "perplexity",
        "endings",
        "tokens/s",
    ]
    assert [row[0] for row in body] == [stage.name for stage in STAGES]
    assert all(len(row) == len(heads) for row in body)
    assert body[1][6] == body[1][8] == "—"


def test_every_step_is_a_labelled_mark_in_every_plot_of_the_ledger():
    for svg in plots(draw(answer()))[:3]:
        marks = of_class(svg, "mark")
        assert [mark.find("title").text.partition(":")[0] for mark in marks] == [
            stage.name for stage in STAGES
        ]
        assert [mark.find("text").text for mark in marks] == [stage.name for stage in STAGES]
        assert [bool(of_class(mark, "ring")) for mark in marks] == [False, False, True]


def test_the_verdict_says_how_much_smaller_how_far_from_the_teacher_and_at_what_cost():
    said = Read(draw(answer())).said

    for words in (
        "2.6 times smaller, KL 0.11 from its teacher",
        "tiny-student (distilled) takes 988.5 KiB where tiny takes 2.5 MiB",
        "the same first choice in 87.0% of places",
        "endings 71.0% → 68.0%",
        "205 k tokens in 50 steps and took 25 s",
        "best at step 50",
    ):
        assert words in said


def test_a_finetuning_is_judged_by_its_tasks():
    score = (
        {"tasks": {"commands": Score(0.41, 0.34, 0.48, 200)}},
        {"tasks": {"commands": Score(0.83, 0.78, 0.88, 200)}},
    )
    base, tuned = (
        Stage(name, "", 918, 3672, "", **one) for name, one in zip(("base", "tuned"), score, strict=True)
    )
    page = draw(answer([base, tuned], what="finetune", teacher=None, base="demo", teaching=None))

    assert "Commands 41.0% → 83.0%" in page
    assert "Finetuned from demo." in page
    assert len(plots(page)) == 3
    assert "How it was taught" not in page


def test_without_a_ledger_the_held_out_loss_is_the_verdict():
    page = draw(answer([]))

    assert "Held-out loss 7.5 → 0.637 nats" in page
    assert '<table class="ledger">' not in page
    assert len(plots(page)) == 2


def test_the_course_shows_the_losses_their_parts_the_validations_and_the_best_moment():
    page = draw(answer())
    for svg in plots(page)[-2:]:
        assert [len(of_class(svg, name)) for name in ("raw", "learned", "rate", "part", "dot", "ring")] == [
            1,
            1,
            1,
            2,
            4,
            1,
        ]
        assert "best: 0.637 at step 50" in {text.text for text in svg.iter("text")}
    assert "cross-entropy, a part of it" in page


def test_a_loss_of_one_part_is_drawn_once():
    curve = [{**point(step), "parts": {"cross-entropy": 1.0}} for step in range(1, 9)]

    assert not of_class(plots(draw(answer(curve=curve)))[-1], "part")


def test_the_accuracy_of_a_classifier_is_no_part_of_its_loss():
    curve = [{**point(step), "parts": {"cross-entropy": 1.0, "accuracy": 0.5}} for step in range(1, 9)]
    validations = [{"step": step, "loss": 1.0, "parts": {"accuracy": 0.5 + step / 100}} for step in (0, 8)]
    page = draw(answer([], curve=curve, validations=validations, best={"step": 8, "loss": 1.0}))

    assert not of_class(plots(page)[-1], "part")
    assert "right labels 50.0% → 58.0%" in Read(page).said


@pytest.mark.parametrize(("resumed", "said"), [(200, "200"), ([200, 4000], "200, 4,000")])
def test_what_happened_on_the_way_is_said(resumed, said):
    words = Read(draw(answer(resumed_from=resumed, stopped_early=True))).said

    assert f"gone on from step {said}" in words
    assert "ended early" in words
    assert "gone on" not in Read(draw(answer())).said


def test_data_samples_settings_and_what_was_left_out_are_said():
    words = Read(draw(answer(setting={"rate": 1e-3, "deep": {"of_it": True}, "steps": None}))).said

    for said in ("stories.txt 1,200 350,123", "3 too long", "rate 0.001", "deep: of it yes", "weight 0.9"):
        assert said in words
    for said in ("before the the", "after upon a time", "teacher there was"):
        assert said in words
    assert "steps None" not in words
    assert "unwritable" not in words
    assert "held-out.txt" in words


def test_a_sample_without_a_teacher_has_no_place_for_one():
    page = draw(answer([], samples=[{"prompt": "a", "before": "b", "after": "c", "teacher": None}]))

    assert ">teacher<" not in page


def test_the_page_needs_nothing_outside_itself():
    page = draw(answer())
    elements = Read(page).elements

    assert "://" not in page
    assert not re.search(r"@import|url\(", page)
    assert not {tag for tag, _ in elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "base",
        "object",
        "embed",
        "use",
    }
    assert not [attributes for _, attributes in elements if {"src", "href"} & attributes.keys()]


def told(text):
    """Return a page on which everything that people can name bears the same name."""
    stages = [
        Stage(f"{text}{place}", text, 9, 900 - place, text, {"kl_mean": 0.1}, {text: Score(0.5, 0.4, 0.6, 9)})
        for place in range(2)
    ]
    curve = [{**point(step), "parts": {text: 1.0, f"{text}2": 0.5}} for step in (1, 2)]
    sample = dict.fromkeys(("prompt", "before", "after", "teacher"), text)
    data = [{"file": text, "samples": 1, "tokens": 1}]
    named = {"model": text, "teacher": text, "setting": {text: text}, "left_out": {text: 1}}
    return draw(answer(stages, **named, curve=curve, data=data, samples=[sample]))


def shape(page):
    return [tag for tag, _ in Read(page).elements if tag not in {"text", "path"}]


PLAIN = shape(told("plain"))


@settings(max_examples=15)
@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("<>&\"'{}%"), min_size=1))
def test_what_people_wrote_is_words_and_never_markup(name):
    page = told(f"<script>{name}")

    assert shape(page) == PLAIN
    assert sum(f"<script>{name}" in data for _, data in Read(page).words) >= 12


BROKEN = [None, math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 3e38, "?"]
COUNTED = {"step", "steps", "items"}
"""What is no measurement, and always there."""


def broken(said, value, every):
    """Return a copy in which one of `every` figures, each in its turn, is `value`."""
    turn = count()

    def copied(one, name=""):
        if isinstance(one, dict):
            return {key: copied(each, key) for key, each in one.items()}
        if isinstance(one, list):
            return [copied(each) for each in one]
        figure = isinstance(one, int | float) and not isinstance(one, bool) and name not in COUNTED
        return value if figure and next(turn) % every == 0 else one

    return copied(said)


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize("value", BROKEN)
def test_a_figure_that_is_missing_or_no_number_breaks_nothing(value, every):
    page = draw(broken(answer(), value, every))

    assert Read(page).open == []
    assert [row[0] for row in rows(page)[1]] == [stage.name for stage in STAGES]
    for svg in plots(page):
        width, height = map(float, svg.get("viewBox").split()[2:])
        for mark in svg.iter("circle"):
            assert 0 <= float(mark.get("cx")) <= width
            assert 0 <= float(mark.get("cy")) <= height
        places = " ".join(each.get("points", "") + each.get("d", "") for each in svg.iter())
        assert "nan" not in places
        assert "inf" not in places


def test_a_run_that_was_ended_before_its_first_step_has_a_page():
    page = draw(
        answer([], curve=[], validations=[], best={"step": 0, "loss": None}, steps=0, tokens=0, seconds=0.0)
    )

    assert Read(page).open == []
    assert "Held-out loss — → — nats" in page


def test_a_long_run_makes_a_page_that_is_not_longer():
    curve = [{**point(1 + step % 50), "step": step, "tokens": 4096 * step} for step in range(1, 20_001)]

    assert len(draw(answer(curve=curve, steps=20_000))) < 120_000


def test_the_answer_as_read_from_json_makes_the_same_page():
    assert draw(json.loads(json.dumps(answer()))) == draw(answer())


def test_a_ledger_that_was_read_from_its_file_is_drawn():
    said = answer()

    assert parse(json.dumps(said["ledger"]), "ledger.json").stages == STAGES

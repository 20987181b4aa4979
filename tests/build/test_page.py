import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmops.build.choice import Outcome, pick
from slmops.build.divergence import Measurement
from slmops.build.page import COLUMNS, draw
from slmops.build.plan import Make, Plan, Row
from slmops.build.quality import QUALITIES, Quality
from slmops.build.report import report
from slmops.build.run import Result
from slmops.profile.device import Cpu, DeviceProfile, Memory, Serve, Storage, System
from slmops.profile.fit import Candidate, hold, most_bytes
from slmops.profile.footprint import ModelShape

MIB = 1 << 20
SHAPE = ModelShape(layers=6, hidden=512, heads=8, kv_heads=4, head_dim=64, vocab=4096, parameters=21_000_000)
BOARD = DeviceProfile(
    name="board",
    title="A board",
    arch="aarch64",
    cpu=Cpu(model="Cortex-A53", cores=4),
    memory=Memory(total=204 * MIB, reserve=54 * MIB, bandwidth=200 * MIB),
    storage=Storage(kind="sd", free=4096 * MIB),
    system=System(os="Debian"),
    serve=Serve(context=512, threads=4, min_tokens_per_second=9),
    formats=("gguf", "onnx"),
)
MIX = Make("gguf", "MIXED", (("blk.0.attn_q.weight", "Q6_K"), ("blk.0.ffn_up.weight", "Q4_K"), ("a", "Q4_K")))
LOSSES = [
    (Make("gguf", "F32"), 84.0, 0.0),
    (Make("gguf", "Q8_0"), 22.4, 2e-5),
    (Make("onnx", "INT8"), 14.4, 2e-3),
    (Make("gguf", "Q6_K"), 17.4, 1e-3),
    (MIX, 13.6, 4e-3),
    (Make("gguf", "Q4_K_M"), 13.0, 0.0101),
    (Make("gguf", "Q2_K"), 8.8, 0.4),
]


def measured(kl):
    return Measurement(
        kl_mean=kl, kl_p99=9 * kl, top1=max(1 - 2 * kl, 0), tokens=2540, sequences=12, kl_error=kl / 20,
        source_perplexity=178.8, source_perplexity_low=170.0, source_perplexity_high=188.0,
        perplexity=178.8 * (1 + kl), perplexity_ratio=1 + kl,
    )  # fmt: skip


def fit(make, size):
    return hold(BOARD, SHAPE, [Candidate(make.format, make.type, size)])[0]


def result(gate: Quality | None = QUALITIES["balanced"], losses=LOSSES, **of_profile):
    profile = BOARD.model_copy(update=of_profile)
    sizes = [(make, round(megabytes * 1e6), kl) for make, megabytes, kl in losses]
    outcomes = [
        Outcome(make, size, size * 8 / SHAPE.parameters, fit(make, size), measured(kl))
        for make, size, kl in sizes
    ]
    dropped = Row(Make("gguf", "F16"), fit(Make("gguf", "F16"), 42 * 10**6), "its export takes too much")
    rows = [Row(one.make, one.fit, "") for one in outcomes] + [dropped]
    most = {name: most_bytes(BOARD, SHAPE, name) for name in BOARD.formats}
    return Result(profile, pick(profile, outcomes, gate), Plan({profile.name: tuple(rows)}), gate, most)


def answer(*results):
    return report("tiny:1.0.0", "tiny-llama", results or [result()])


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

    def said_in(self, tag):
        return [data for within, data in self.words if within == tag]


def plots(page):
    found = re.findall(r'<svg class="plot .*?</svg>', page, re.DOTALL)
    return [ET.fromstring(svg) for svg in found]  # noqa: S314 - we wrote it


def titles(svg):
    return [title.text for title in svg.iter("title")]


def of_class(svg, name):
    return [each for each in svg.iter("g") if name in each.get("class", "").split()]


def rows(page):
    """Return the rows of the tables of candidates: (class, cells without markup)."""
    bodies = re.findall(r'<table class="all">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    found = re.findall(r'<tr class="(\w+)">(.*?)</tr>', "".join(bodies), re.DOTALL)
    return [(kind, re.findall(r"<td[^>]*>(.*?)</td>", cells, re.DOTALL)) for kind, cells in found]


def name_in(cells):
    """Return what the first cell of a row calls the candidate."""
    return re.sub(r"<.*?>", "", cells[0].partition("<span")[0]).strip()


def test_every_element_is_closed_and_the_drawings_are_sound_xml():
    page = draw(answer())

    assert Read(page).open == []
    assert len(plots(page)) == 2


def test_every_candidate_is_in_the_table_and_in_both_drawings_with_all_its_figures():
    page = draw(answer())
    names = {str(make) for make, _, _ in LOSSES} | {"gguf F16"}

    assert {name_in(cells) for _, cells in rows(page)} == names
    for svg in plots(page):
        assert {title.partition("\n")[0] for title in titles(svg)} == names
        assert all(f"{column}: " in title for title in titles(svg) for column in COLUMNS)


def test_the_table_goes_from_the_smallest_to_the_largest():
    sizes = [float(cells[1].removesuffix(" MiB")) for _, cells in rows(draw(answer()))]

    assert sizes == sorted(sizes)


def test_the_chosen_one_is_marked_once_in_the_table_and_once_in_each_drawing():
    page = draw(answer())

    assert [cells[-1] for kind, cells in rows(page) if kind == "chosen"] == ["chosen"]
    for svg in plots(page):
        assert [titles(mark)[0].partition("\n")[0] for mark in of_class(svg, "chosen")] == ["gguf MIXED"]


def test_what_became_of_each_is_seen():
    became = {name_in(cells): kind for kind, cells in rows(draw(answer()))}

    assert became == {
        "gguf MIXED": "chosen",
        "gguf Q4_K_M": "kept",
        "onnx INT8": "kept",
        "gguf Q6_K": "kept",
        "gguf Q2_K": "failed",
        "gguf Q8_0": "unfit",
        "gguf F32": "unfit",
        "gguf F16": "unbuilt",
    }


def test_the_reason_the_gate_and_the_budget_are_said():
    page = draw(answer())
    words = " ".join(data for _, data in Read(page).words)

    assert result().pick.reason in words
    for said in ("gate 0.03", "enough 0.005", "2,540 tokens", "12 texts", "178.8", "93.0%", "1.03 times"):
        assert said in words
    assert re.search(r"gguf at most [\d.]+ MiB", words)


def test_of_a_mixed_one_it_is_said_how_many_tensors_have_each_type():
    assert "2 Q4_K, 1 Q6_K" in draw(answer())


def test_what_was_left_out_before_it_was_built_says_why():
    svg = plots(draw(answer()))[0]

    assert [titles(mark)[0].splitlines()[-1] for mark in of_class(svg, "unbuilt")] == [
        "verdict: its export takes too much"
    ]


def test_what_has_no_size_is_in_the_table_without_one_and_not_in_the_drawings():
    whole = result()
    refused = Row(Make("gguf", "Q3_K_M"), fit(Make("gguf", "Q3_K_M"), 0), "no GGUF conversion")
    listed = Plan({"board": (*whole.plan.rows["board"], refused)})
    page = draw(answer(replace(whole, plan=listed)))
    cells = next(cells for _, cells in rows(page) if name_in(cells) == "gguf Q3_K_M")
    assert [re.sub(r"<.*?>", "", cell).strip() for cell in cells[1:5]] == ["—"] * 4
    with_it, without = ([ET.tostring(svg) for svg in plots(each)] for each in (page, draw(answer(whole))))
    assert with_it == without


def test_the_page_needs_nothing_outside_itself():
    page = draw(answer(result(), result(name="other")))
    elements = Read(page).elements

    assert "://" not in page
    assert not re.search(r"@import|url\(", page)
    assert not {tag for tag, _ in elements} & {"link", "img", "iframe", "base", "object", "embed", "use"}
    assert not [attributes for _, attributes in elements if "src" in attributes]
    assert {attributes["href"][0] for _, attributes in elements if "href" in attributes} == {"#"}


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("<>&\"'{}%"), min_size=1))
def test_what_people_wrote_is_words_and_never_markup(name):
    said = answer()
    for place in (said, *said["profiles"], *said["profiles"][0]["candidates"]):
        place.update(
            {key: f"<b>{name}" for key in ("release", "model", "title", "profile", "reason") if key in place}
        )
        place.update({"verdict": f"<b>{name}"} if place.get("verdict") not in {None, "chosen"} else {})
    read, plain = Read(draw(said)), Read(draw(answer()))

    assert read.said_in("h1") == [f"<b>{name}"]
    assert f"<b>{name}" in "".join(read.said_in("td"))
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in plain.elements]


def test_several_devices_stand_on_one_page_each_with_its_own_choice():
    page = draw(answer(result(), result(name="other", title="Another board")))
    links = [attributes["href"][1:] for tag, attributes in Read(page).elements if tag == "a"]

    assert len(plots(page)) == 4
    assert [kind for kind, _ in rows(page)].count("chosen") == 2
    assert links == [attributes["id"] for _, attributes in Read(page).elements if "id" in attributes]


def test_a_type_asked_for_by_name_needs_no_gate():
    page = draw(answer(result(gate=None, losses=LOSSES[1:2])))

    assert "asked for by name" in page
    assert [kind for kind, _ in rows(page)] == ["chosen", "unbuilt"]
    assert "level" not in {each.get("class") for each in plots(page)[0].iter("path")}


def test_where_enough_is_the_gate_one_line_stands_for_both():
    page = draw(answer(result(gate=QUALITIES["small"])))
    lines = [each for each in plots(page)[0].iter("path") if each.get("class") == "level"]

    assert len(lines) == 1
    assert "gate, enough 0.1" in page


def test_a_loss_that_is_no_number_is_said_to_be_unknown():
    done = result()
    lost = replace(done.pick.verdicts[-1][0], measured=Measurement(math.nan, math.nan, math.nan, 2540, 12))
    verdicts = (*done.pick.verdicts[:-1], (lost, "mean divergence nan, at most 0.03 allowed"))
    page = draw(answer(replace(done, pick=replace(done.pick, verdicts=verdicts))))

    kind, cells = rows(page)[0]
    assert kind == "failed"
    assert cells[5:9] == ["—"] * 4


def test_the_answer_as_read_from_json_makes_the_same_page():
    assert draw(json.loads(json.dumps(answer()))) == draw(answer())


@pytest.mark.parametrize("kl", [0.0, 1e-12, 3e-4, 5.0])
def test_any_loss_can_be_drawn(kl):
    page = draw(answer(result(gate=None, losses=[(Make("gguf", "Q8_0"), 22.4, kl)])))

    assert len(plots(page)) == 2


def test_a_format_there_is_no_room_for_has_no_line():
    most = {"gguf": 20 * MIB, "onnx": 0}
    page = draw(answer(replace(result(), most_bytes=most)))

    assert "gguf at most 20.0 MiB" in page
    assert "onnx at most" not in page
    assert Read(page).said_in("dd")[10:12] == ["20.0 MiB", "none"]

"""A ledger: what is written reads back, steps are added at the end, and what was not measured is no zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.build.card import with_ledger
from slmops.build.ledger import UNKNOWN, Ledger, Score, Stage, markdown, parse, render, rows
from slmops.errors import ModelError

words = st.text(st.characters(codec="utf-8", exclude_characters="|\n\r"), max_size=12)
figures = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
scores = st.builds(Score, accuracy=shares, low=shares, high=shares, items=st.integers(1), way=words)
stages = st.builds(
    Stage,
    name=words,
    what=words,
    parameters=st.integers(0, 1 << 40),
    bytes=st.integers(0, 1 << 40),
    digest=words,
    measured=st.dictionaries(st.sampled_from(["kl_mean", "top1", "bits_per_byte", "perplexity"]), figures),
    tasks=st.dictionaries(words, scores, max_size=2),
    speed=st.dictionaries(st.sampled_from(["decode_per_second", "texts_per_second", "threads"]), figures),
)
ledgers = st.builds(
    Ledger, gauge=st.dictionaries(words, words, max_size=3), stages=st.lists(stages, max_size=4).map(tuple)
)
TEACHER = Stage("teacher", "as it came", 1000, 2048, "sha256:0", {"kl_mean": 0.0, "top1": 1.0})
STUDENT = Stage(
    "distilled", "learned", 400, 1024, "sha256:1", {"kl_mean": 0.125}, {"task": Score(0.5, 0.4, 0.6, 9)}
)


@given(ledgers)
def test_what_is_written_reads_back_the_same(ledger):
    assert parse(render(ledger), "ledger.json") == ledger


@given(ledgers, stages)
def test_a_step_is_added_at_the_end_and_none_is_changed(ledger, stage):
    assert ledger.with_stage(stage).stages == (*ledger.stages, stage)
    assert ledger.with_stage(stage).gauge == ledger.gauge


@given(ledgers)
def test_every_row_has_a_cell_for_every_head(ledger):
    heads, body = rows(ledger)
    assert len(body) == len(ledger.stages)
    assert {len(row) for row in body} <= {len(heads)}


def test_where_nothing_was_measured_nothing_stands():
    heads, (teacher, student) = rows(Ledger({}, (TEACHER, STUDENT)))

    assert dict(zip(heads, teacher, strict=True))["KL"] == "0"
    assert dict(zip(heads, teacher, strict=True))["task"] == UNKNOWN
    assert dict(zip(heads, student, strict=True))["same first"] == UNKNOWN
    assert dict(zip(heads, student, strict=True))["task"] == "50.0% (40.0% to 60.0%)"
    assert "tokens/s" not in heads


def test_a_card_has_one_ledger_however_often_it_is_put_there():
    once = with_ledger("# a model\n", Ledger({"tokens": "64"}, (TEACHER,)))
    twice = with_ledger(once, Ledger({"tokens": "64"}, (TEACHER, STUDENT)))

    assert "| teacher | 1,000 |" in once
    assert "Measured with tokens: 64." in once
    assert twice == with_ledger("# a model\n", Ledger({"tokens": "64"}, (TEACHER, STUDENT)))
    assert with_ledger(twice, Ledger()) == "# a model\n"


def test_a_table_says_below_it_what_every_step_is():
    assert markdown(Ledger({}, (TEACHER, STUDENT)))[-2:] == ["- teacher: as it came", "- distilled: learned"]


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", '{"gauge": {}, "stages": [{}]}', '{"gauge": {}, "stages": [{"tasks": []}]}', "7"]
)
def test_what_is_no_ledger_is_refused_by_its_name(said):
    with pytest.raises(ModelError, match=r"model/ledger\.json is no ledger"):
        parse(said, "model/ledger.json")

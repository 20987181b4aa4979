"""Texts, and how likely the very file held their tokens on the build host."""

from pathlib import Path

import pytest

from slmops.artifact import golden as goldens
from slmops.build.open_model import Shape, open_artifact
from slmops.build.quantize_gguf import plan_gguf, write_all
from slmops.build.record_references import CONTEXT, LEAST, record_references, scores
from slmops.build.source import open_model
from slmops.build.subject import open_words

MODEL = Path(__file__).parents[2] / "demo/model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo's model, and two files of it."""
    source, room = open_model(str(MODEL)), tmp_path_factory.mktemp("made")
    plans = {room / f"{name}.gguf": plan_gguf(source, name) for name in ("Q8_0", "Q4_K_M")}
    write_all(source, plans, lambda _done, _whole: None)
    return source, *plans


def distances(source, file, references, shape):
    model, words = open_artifact(file, shape), open_words(source)
    return [goldens.distance(one, scores(model, words.ids(one))) for one in references]


def test_the_same_file_lies_next_to_its_references_and_another_far_from_them(made):
    source, file, other = made

    references = record_references(source, file, 256)

    assert all(LEAST - 1 <= len(one.expect) < CONTEXT for one in references)
    assert goldens.read(goldens.render(references)) == references
    served = Shape(256, 1, micro_batch=64)
    assert max(distances(source, file, references, served)) < goldens.TOLERANCE / 2
    assert max(distances(source, other, references, served)) > 2 * goldens.TOLERANCE


def test_the_same_file_has_the_same_references(made):
    source, file, _ = made

    assert record_references(source, file, 64) == record_references(source, file, 64)


def test_a_text_that_does_not_fit_into_the_context_is_left_out(made):
    source, file, _ = made

    assert record_references(source, file, LEAST) == []

"""Tasks put to real models in real runtimes."""

import json
from pathlib import Path

import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.build.quantize_gguf import quantize_gguf
from slmops.build.run_tasks import run_tasks
from slmops.build.tasks import read_task
from slmops.errors import BuildError

SHARED = Path(__file__).parents[2].parent / "shared"


def task(*objects, name="a.jsonl"):
    return read_task("".join(json.dumps(said) + "\n" for said in objects), name)


@pytest.fixture
def gguf(random_checkpoint, tmp_path):
    """A small random model as a GGUF file."""
    quantize_gguf(random_checkpoint(), "F16", tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_choices_and_answers_are_put_to_one_model_in_one_go(gguf):
    item = {"context": "The cat sat on", "choices": ["the mat.", "a flying carpet from Persia."], "answer": 0}
    asked = {"prompt": "One, two,", "expect": "", "match": "json", "max_tokens": 2}
    endings, answers = run_tasks(gguf, [task(item, item), task(asked)])
    assert endings.right == endings.right[::-1]
    assert len(endings.right_otherwise) == 2
    assert (answers.right, answers.right_otherwise, answers.chance) == ((False,), None, 0)


def test_a_context_that_is_too_long_loses_its_beginning(gguf):
    ending = {"choices": ["the mat.", "a flying carpet from Persia."], "answer": 0}
    long = "Once upon a time there was a very small cat. " * 40
    (found,) = run_tasks(gguf, [task({**ending, "context": long})])
    assert len(found.right) == 1


def test_choices_that_are_too_long_for_the_model_are_named(gguf):
    item = {"context": "It was", "choices": ["not. " * 400, "so."], "answer": 0}
    with pytest.raises(BuildError, match=r"a\.jsonl, item 1: its choices are too long for 64 tokens"):
        run_tasks(gguf, [task(item)], context=64)


def test_an_answer_that_may_be_longer_than_the_model_bears_leaves_its_prompt_whole(gguf):
    asked = {"prompt": "One, two,", "expect": "", "match": "json"}
    short, long = (
        task({**asked, "expect": ".", "match": "regex", "max_tokens": most}) for most in (60, 5000)
    )
    assert [found.right for found in run_tasks(gguf, [short, long], context=64)] == [(True,), (True,)]


@pytest.mark.journey
def test_a_trained_model_finds_the_endings_it_is_known_to_find():
    file, model = SHARED / "data" / "tinystories_ending_choice.jsonl", SHARED / "models" / "tinystories-656k"
    if not file.is_file() or not model.is_dir():
        pytest.skip(f"no task at {file}, or no model at {model}")
    (found,) = run_tasks(open_checkpoint(model), [read_task(file.read_text(), file.name)])
    assert (found.accuracy, found.accuracy_otherwise) == pytest.approx((0.480, 0.287), abs=0.007)
    assert found.interval[0] > found.chance

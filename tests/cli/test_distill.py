"""What slmops distill foretells, and what it refuses, before anything is asked, cut or trained."""

import json
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo" / "model"


@pytest.fixture
def words(tmp_path):
    """A command that would distill."""
    data = tmp_path / "data.jsonl"
    data.write_bytes((DEMO / "golden.jsonl").read_bytes())
    return ["distill", DEMO, "--student", "prune:50%", "--data", data, "--out", tmp_path / "out"]


def test_a_dry_run_says_what_it_would_come_to_and_leaves_nothing(slmops, words, tmp_path):
    said = json.loads(slmops(*words, "--steps", "5", "--batch-tokens", "256", "--dry-run", "-o", "json").out)

    assert (said["steps"], said["tokens"]) == (5, 5 * 256)
    assert said["student_parameters"] == said["teacher_parameters"] // 2
    assert said["recorded"] == said["data"]["tokens"] + said["data"]["held_out_tokens"]
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_has_no_say_reads_nothing(slmops, words):
    assert json.loads(slmops(*words, "--weight", "0", "--dry-run", "-o", "json").out)["recorded"] == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--then-quantize"], "which release to make is not said"),
        (["--name", "house", "--version", "1.0.0"], "profiles is not said"),
        (["--then-quantize", "--profile", "local"], "name is not said"),
        (["--profile", "nowhere", "--name", "n", "--version", "1.0.0"], "nowhere"),
        (["--out", DEMO], "is the teacher itself"),
        (["--student", "prune:much"], "--params: expected"),
        (["--steps", "3", "--epochs", "2"], "at most one of epochs, steps and tokens"),
        (["--weight", "2"], "weight: expected"),
        (["--hidden", "1", "--cache", "yes"], "needs the teacher at hand"),
        (["--task", "gone.jsonl"], "gone.jsonl cannot be read"),
        (["--evaluation", "gone.txt"], "gone.txt is not there"),
    ],
)
def test_what_cannot_be_is_refused_at_once(slmops, words, more, told):
    ended = slmops(*words, *more, "--dry-run")

    assert ended.code == 2
    assert told in ended.err

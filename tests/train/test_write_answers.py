"""A teacher that lies here writes answers: the demo model, whose grammar knows what is right."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from slmops.artifact import golden
from slmops.build.checkpoint import open_checkpoint
from slmops.build.phrase import CheckpointPhrasing
from slmops.errors import ModelError, TrainingError, UsageError
from slmops.train.answers import Asking
from slmops.train.sieve import Sieve
from slmops.train.write_answers import dropped_beside, questions_of, said_beside, write_answers

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
DEMO = ROOT / "demo" / "model"


@pytest.fixture(scope="module")
def teacher():
    return open_checkpoint(DEMO)


@pytest.fixture(scope="module")
def right():
    """Commands that the demo model never saw, and what they mean."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from demo_grammar import draw  # noqa: PLC0415 - scripts are no package

    chance = random.Random("held out")  # noqa: S311
    commands = [draw(chance, held_out=True) for _ in range(40)]
    return {command.text: json.loads(command.meaning.answer()) for command in commands}


@pytest.fixture(scope="module")
def prompts(right, tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("".join(text + "\n" for text in right))
    return file


ASKING = Asking(chat=True, answers=2, temperature=1.5, seed=1, batch=8, sieve=Sieve(json_only=True))


@pytest.fixture(scope="module")
def whole(teacher, prompts, tmp_path_factory):
    """What ASKING comes to: the folder, and the summary."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, write_answers(teacher, [prompts], folder / "out.jsonl", ASKING)


def told(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_demo_model_answers_what_the_grammar_means(teacher, right, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    found = write_answers(teacher, [prompts], out, Asking(chat=True, sieve=Sieve(json_only=True)))
    lines = told(out)
    assert (found.questions, found.answers, found.kept, found.dropped) == (*(len(right),) * 3, {})
    assert {
        one["messages"][0]["content"]: json.loads(one["messages"][1]["content"]) for one in lines
    } == right
    assert all(-0.5 < one["provenance"]["likelihood"] <= 0 for one in lines)
    assert sum(one["provenance"]["tokens"] for one in lines) == found.tokens == found.written
    assert not dropped_beside(out).exists()


def test_a_golden_file_can_be_asked_and_a_prompt_the_teacher_cannot_read_is_dropped(teacher, tmp_path):
    out, long = tmp_path / "out.jsonl", tmp_path / "long.txt"
    long.write_text("lamp on " * 200 + "\n")
    found = write_answers(teacher, [long, DEMO / "golden.jsonl"], out, Asking())
    asked = golden.read((DEMO / "golden.jsonl").read_text())
    assert (found.questions, dict(found.dropped)) == (len(asked) + 1, {"prompt too long": 1})
    answers = [line["messages"][-1]["content"] for line in told(out)]
    assert all(golden.passes(one, answer) for one, answer in zip(asked, answers, strict=True))


def test_all_that_is_said_is_kept_or_dropped_and_told(whole):
    folder, found = whole
    assert found.kept + sum(found.dropped.values()) == found.answers == 2 * found.questions
    assert len(told(folder / "out.jsonl")) == found.kept
    assert len(told(folder / "out.dropped.jsonl")) == sum(found.dropped.values())


def test_what_a_killed_run_wrote_is_gone_on_with_to_the_same_bytes(teacher, prompts, whole, tmp_path):
    folder, _ = whole
    out = tmp_path / "out.jsonl"
    said = (folder / "out.said.jsonl").read_bytes()
    said_beside(out).write_bytes(said[: len(said) * 2 // 3])
    found = write_answers(teacher, [prompts], out, ASKING)
    assert 0 < found.written < found.tokens
    for name in ("out.jsonl", "out.dropped.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_sieve_asks_nothing_again(teacher, prompts, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    shutil.copy(whole[0] / "out.said.jsonl", said_beside(out))
    found = write_answers(teacher, [prompts], out, replace(ASKING, sieve=Sieve(vote=True)))
    assert (found.written, found.kept) == (0, found.questions)


def test_a_disk_that_fills_up_at_the_end_leaves_no_half_file(teacher, prompts, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    shutil.copy(whole[0] / "out.said.jsonl", said_beside(out))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(TrainingError, match="cannot be written"):
            write_answers(teacher, [prompts], out, ASKING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".writing"] == []
    assert not out.exists()
    assert write_answers(teacher, [prompts], out, ASKING).written == 0


def test_a_file_that_was_not_begun_here_is_not_overwritten(teacher, prompts, tmp_path):
    (tmp_path / "mine.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_answers(teacher, [prompts], tmp_path / "mine.jsonl", Asking(chat=True))
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


def test_where_nothing_is_kept_that_is_said_and_the_dropped_are_there_to_be_seen(teacher, prompts, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(TrainingError, match=r"none of \d+ answers is kept: \d+ cut at the limit") as failed:
        write_answers(teacher, [prompts], out, Asking(chat=True, max_tokens=2))
    assert "--max-tokens" in failed.value.remedy
    assert not out.exists()
    assert all(one["dropped"] == "cut at the limit" for one in told(dropped_beside(out)))


def test_a_classifier_writes_nothing(labelling, prompts, tmp_path):
    with pytest.raises(ModelError, match="labels texts"):
        write_answers(open_checkpoint(labelling.source), [prompts], tmp_path / "out.jsonl", Asking())


@pytest.mark.parametrize(
    ("asking", "told"),
    [
        (Asking(answers=2), "would be one"),
        (Asking(sieve=Sieve(vote=True)), "no vote"),
        (Asking(answers=0), "at least one"),
        (Asking(temperature=3), "expected a temperature"),
        (Asking(top_p=0), "top-p"),
    ],
)
def test_an_asking_that_makes_no_sense_is_refused(teacher, prompts, tmp_path, asking, told):
    with pytest.raises(UsageError, match=told):
        write_answers(teacher, [prompts], tmp_path / "out.jsonl", asking)


@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k"])
def test_a_document_is_cut_where_the_teachers_own_tokens_end(name):
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no trained models at {SHARED}")
    teller, file = open_checkpoint(folder), SHARED / "data" / "tinystories_eval_200.txt"
    words = CheckpointPhrasing(teller)
    stories = [text.strip() for text in file.read_text().split("<|endoftext|>")]
    found = questions_of(teller, [file], Asking(opening_words=8))
    assert len(found) > 190
    for question in found:
        story = stories[int(question.where.rpartition(" ")[2]) - 1]
        opening = words.written(question.prompt)
        assert words.written(story)[: len(opening)] == opening


@pytest.mark.journey
@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k"])
def test_a_teller_of_stories_goes_on_with_their_openings(name, tmp_path):
    folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no trained models at {SHARED}")
    stories = (SHARED / "data" / "tinystories_eval_200.txt").read_text().split("<|endoftext|>")[:30]
    # What is not in its alphabet ends nothing.
    (tmp_path / "s.txt").write_text(
        "<|endoftext|>".join([*stories, "One day there was a \u2603 in the wood again"])
    )
    out = tmp_path / "out.jsonl"
    asking = Asking(opening_words=4, max_tokens=400, temperature=0.7, top_p=0.9, batch=16)
    found = write_answers(open_checkpoint(folder), [tmp_path / "s.txt"], out, asking)
    assert found.kept > 10
    for line in told(out):
        whole = line["prompt"] + line["completion"]
        assert "  " not in whole
        assert "<|" not in whole


@pytest.mark.journey
def test_answers_written_one_by_one_are_those_written_side_by_side(teacher, prompts, tmp_path):
    for batch in (1, 32):
        write_answers(teacher, [prompts], tmp_path / f"{batch}.jsonl", Asking(chat=True, batch=batch))
    single, many = told(tmp_path / "1.jsonl"), told(tmp_path / "32.jsonl")
    assert [one["messages"] for one in single] == [one["messages"] for one in many]


@pytest.mark.journey
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signal", [2, 9])
def test_a_process_that_is_ended_is_gone_on_with_to_the_same_bytes(tmp_path, signal):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"turn on lamp {number} in the kitchen\n" for number in range(150)))

    def run(out):
        words = [
            "write-answers",
            DEMO,
            "--prompts",
            prompts,
            "--chat",
            "--answers",
            2,
            "--batch",
            4,
            "--out",
            out,
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "slmops.cli.app", *map(str, words)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    first = run(cut)
    while not said_beside(cut).exists() or said_beside(cut).read_bytes().count(b"\n") < 20:
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended: {first.wait(timeout=0.02)}")
    first.send_signal(signal)
    said = first.communicate()[1]
    assert not cut.exists()
    assert signal == 9 or ("Interrupted" in said and first.returncode == 130)
    for out in (cut, whole):
        again = run(out)
        assert (again.communicate()[1], again.returncode)[1] == 0
    assert cut.read_bytes() == whole.read_bytes()

"""The file of what a teacher said."""

import json
import resource

import pytest

from slmops.build.isolate import silent
from slmops.errors import TrainingError
from slmops.train.answers import Answer
from slmops.train.keep_answers import keep_answers

ASKED = {"teacher": "big", "seed": 0}
SAID = {("sha256:a", 0): Answer("Grün", "stop", 2, -0.5), ("sha256:a", 1): Answer("", "refused")}


def test_what_was_said_is_there_again(tmp_path):
    file = tmp_path / "new" / "a.said.jsonl"
    with keep_answers(file, ASKED, silent) as kept:
        kept.add(SAID.items())
        assert kept.heard().written == 2
    with keep_answers(file, ASKED, silent) as kept:
        assert kept.answers == SAID
        assert kept.heard().written == 0


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_wherever_it_was_cut_off_what_is_whole_is_kept_and_the_same_file_comes_of_it(tmp_path, cut):
    file = tmp_path / "a.said.jsonl"
    with keep_answers(file, ASKED, silent) as kept:
        kept.add(SAID.items())
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    with keep_answers(file, ASKED, silent) as kept:
        assert kept.answers.items() <= SAID.items()
        kept.add((place, answer) for place, answer in SAID.items() if place not in kept.answers)
    assert file.read_bytes() == whole


def test_answers_to_another_asking_are_left_as_they_are(tmp_path):
    file = tmp_path / "a.said.jsonl"
    with keep_answers(file, ASKED, silent) as kept:
        kept.add(SAID.items())
    before = file.read_bytes()
    with (
        pytest.raises(TrainingError, match=r"another asking: seed 0, now 1; top_p None, now 0\.5"),
        keep_answers(file, {**ASKED, "seed": 1, "top_p": 0.5}, silent),
    ):
        pytest.fail("opened")
    assert file.read_bytes() == before


def test_begun_anew_answers_to_another_asking_are_forgotten_and_those_to_this_one_are_not(tmp_path):
    file = tmp_path / "a.said.jsonl"
    with keep_answers(file, {**ASKED, "seed": 1}, silent) as kept:
        kept.add(SAID.items())
    for found in ({}, SAID):
        with keep_answers(file, ASKED, silent, fresh=True) as kept:
            assert kept.answers == found
            kept.add(SAID.items())


@pytest.mark.parametrize("said", ["no JSON\n", '{"seed": 0}\n{"of": "x"}\n', "[]\n1\n"])
def test_a_file_that_is_something_else_is_refused(tmp_path, said):
    (tmp_path / "a.said.jsonl").write_text(said)
    with (
        pytest.raises(TrainingError, match="no file of a teacher's"),
        keep_answers(tmp_path / "a.said.jsonl", ASKED, silent),
    ):
        pytest.fail("opened")


def test_a_disk_that_fills_up_is_a_typed_error_and_what_was_whole_stays(tmp_path):
    file = tmp_path / "a.said.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with keep_answers(file, ASKED, silent) as kept:
        kept.add(SAID.items())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(TrainingError, match="cannot be written"):
                kept.add([(("sha256:b", 0), Answer("long " * 1000, "stop"))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with keep_answers(file, ASKED, silent) as kept:
        assert kept.answers == SAID
    assert json.loads(file.read_text().splitlines()[0]) == ASKED

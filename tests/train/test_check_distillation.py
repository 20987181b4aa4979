"""What a distillation is refused for before it costs anything."""

import shutil
from pathlib import Path

import pytest

from slmops.build.checkpoint import open_checkpoint
from slmops.errors import DocumentError, UsageError
from slmops.profile.load import load_profile
from slmops.train.check_distillation import check_distillation
from slmops.train.distill_recipe import DistillRecipe, Measuring, Then
from slmops.train.open_trainable import has_weights

DEMO = Path(__file__).parents[2] / "demo" / "model"


@pytest.fixture
def teacher(tmp_path):
    return open_checkpoint(shutil.copytree(DEMO, tmp_path / "teacher"))


@pytest.fixture
def recipe(tmp_path, teacher):
    (tmp_path / "data.txt").write_text("lamp on")
    return DistillRecipe(
        teacher=str(teacher.folder), student="prune:50%", out=str(tmp_path / "out"),
        data=(str(tmp_path / "data.txt"),),
    )  # fmt: skip


def with_(recipe, **more):
    return recipe.model_copy(update=more)


def test_a_place_where_nothing_is_and_one_with_a_run_are_taken(recipe, teacher, tmp_path):
    check_distillation(recipe, teacher, load_profile)
    run = tmp_path / "out" / "run"
    run.mkdir(parents=True)
    for file in (run / "run.json", run.parent / "config.json"):
        file.write_text("{}")
    check_distillation(recipe, teacher, load_profile)


@pytest.mark.parametrize("what", ["teacher", "student"])
def test_what_it_begins_from_is_never_written_over(recipe, teacher, tmp_path, what):
    student = shutil.copytree(DEMO, tmp_path / "student")
    (tmp_path / "link").symlink_to(tmp_path / what)
    for out in (tmp_path / what, tmp_path / "link", tmp_path / "student" / ".." / what):
        with pytest.raises(UsageError, match=f"is the {what} itself"):
            check_distillation(with_(recipe, out=str(out), student=str(student)), teacher, load_profile)


def test_a_model_that_was_not_trained_there_is_left_alone(recipe, teacher, tmp_path):
    shutil.copytree(DEMO, tmp_path / "out")
    with pytest.raises(UsageError, match="holds a model already"):
        check_distillation(recipe, teacher, load_profile)


def test_a_file_is_no_place_for_a_student(recipe, teacher, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="is a file"):
        check_distillation(recipe, teacher, load_profile)


def test_every_file_that_is_not_there_is_missed_beforehand(recipe, teacher, tmp_path):
    gone, here = str(tmp_path / "gone.txt"), tmp_path / "here"
    here.mkdir()
    then = Then(name="n", version="1.0.0", profiles=("local",), golden=gone)
    for more in (
        {"data": (gone,)}, {"prompts": (gone,)}, {"validation": gone}, {"calibration": gone},
        {"tasks": (gone,)}, {"evaluation": Measuring(file=gone)}, {"quantize": then},
    ):  # fmt: skip
        with pytest.raises(DocumentError, match=r"gone\.txt is not there"):
            check_distillation(with_(recipe, **more), teacher, load_profile)
    with pytest.raises(DocumentError, match="is a folder, not a file"):
        check_distillation(with_(recipe, data=(str(here),)), teacher, load_profile)


def test_a_classifier_needs_texts_to_be_measured_with(recipe, labelling):
    source = open_checkpoint(labelling.source)
    with pytest.raises(UsageError, match="none can be made up"):
        check_distillation(recipe, source, load_profile)
    check_distillation(with_(recipe, tasks=(str(labelling.task),)), source, load_profile)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"])
def test_a_folder_whose_weights_cannot_be_read_is_not_taken_for_one_without(tmp_path, name):
    assert not has_weights(tmp_path)
    (tmp_path / name).touch()
    assert has_weights(tmp_path)


def test_a_cut_that_nobody_understands_is_refused_before_anything_is_asked(recipe, teacher):
    with pytest.raises(UsageError, match="prune: expected"):
        check_distillation(with_(recipe, student="prune:leyers=2"), teacher, load_profile)
    with pytest.raises(UsageError, match="raspbery"):
        check_distillation(with_(recipe, student="prune:profile=raspbery-pi-5"), teacher, load_profile)

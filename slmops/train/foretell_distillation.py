"""Say what a distillation would come to before anything is asked, cut or trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmops.build.sketch import Sketch, sketch
from slmops.build.subject import name_of
from slmops.profile.device import DeviceProfile
from slmops.train.check_distillation import check_distillation
from slmops.train.deal import steps_per_epoch
from slmops.train.distill_recipe import DistillRecipe
from slmops.train.open_student import PRUNE
from slmops.train.open_trainable import open_teacher
from slmops.train.pruning import most_parameters, parse_pruning
from slmops.train.read_data import read_data


@dataclass(frozen=True)
class Foretold:
    """What a distillation would come to."""

    teacher: str
    teacher_parameters: int
    student: str
    student_parameters: int | None
    """None where only the cut itself will tell."""
    data: dict[str, Any]
    """Samples and tokens, as they are now: what the teacher is yet to write is not among them."""
    steps: int
    tokens: int
    """To read in training."""
    recorded: int
    """Tokens that the teacher reads beforehand; 0 of one that stays at hand."""


def foretell(recipe: DistillRecipe, load: Callable[[str], DeviceProfile]) -> Foretold:
    """Return what `recipe` would come to; raise what carrying it out would, as far as it can be seen now."""
    teacher, setting = open_teacher(recipe.teacher), recipe.training
    check_distillation(recipe, teacher, load)
    drawn, weights = _student(recipe, teacher, load)
    files = [Path(one) for one in recipe.data]
    validation = Path(recipe.validation) if recipe.validation else None
    data = (
        read_data(files, validation, drawn, setting.length, throughout=recipe.learn == "all")
        if files
        else None
    )
    epoch = len(data.training.ids) if data else 0
    steps = (
        setting.steps_in(epoch, steps_per_epoch(data.training.lengths, setting.batch_tokens)) if data else 0
    )
    return Foretold(
        teacher=name_of(teacher),
        teacher_parameters=teacher.parameters,
        student=recipe.student,
        student_parameters=weights,
        data=data.said if data else {},
        steps=steps,
        tokens=steps * setting.batch_tokens,
        recorded=epoch + len(data.validation.ids) if data and recipe.teaching.recorded else 0,
    )


def _student(
    recipe: DistillRecipe, teacher: Sketch, load: Callable[[str], DeviceProfile]
) -> tuple[Sketch, int | None]:
    """Return whose words the student has, and how many weights."""
    if recipe.student.startswith(PRUNE):
        wish = parse_pruning(recipe.student.removeprefix(PRUNE), load)
        return teacher, None if wish.params is None else most_parameters(wish.params, teacher.parameters)
    folder = Path(recipe.student).expanduser()
    drawn = sketch(folder) if folder.is_dir() else open_teacher(recipe.student)
    return drawn, drawn.parameters

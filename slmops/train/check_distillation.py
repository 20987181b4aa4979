"""Refuse a distillation that cannot end well, before it costs anything.

Laws: neither the teacher nor the student it begins from is ever written over, nor a model that no training
made; a file that is missing is named before the first step, not after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from slmops.build.checkpoint import Checkpoint
from slmops.build.classifier import is_classifier
from slmops.errors import DocumentError, UsageError
from slmops.profile.device import DeviceProfile
from slmops.train.check_place import MODEL, check_place
from slmops.train.checkpoints import IDENTITY
from slmops.train.cuts import body_of
from slmops.train.distill_recipe import DistillRecipe
from slmops.train.model_folder import RUN
from slmops.train.open_student import PRUNE
from slmops.train.pruning import most_parameters, parse_pruning, wanted


def check_distillation(
    recipe: DistillRecipe, teacher: Checkpoint, load: Callable[[str], DeviceProfile]
) -> None:
    """Raise UsageError for a place that is taken, DocumentError for a file that is not there.

    `load` finds the device profile that a cut may name.
    """
    out = Path(recipe.out)
    _check_student(recipe.student, teacher, load)
    begins = {"teacher": teacher.folder, "student": Path(recipe.student).expanduser()}
    for what, folder in begins.items():
        if out.resolve() == folder.resolve():
            raise UsageError(f"{out} is the {what} itself", remedy="Give --out a folder of its own.")
    own = (out / RUN / IDENTITY).is_file()
    check_place(out, MODEL, replace=own, remedy="It was not trained there: give --out another folder.")
    if is_classifier(teacher.config) and not (recipe.evaluation.file or recipe.tasks):
        raise UsageError(
            "a text classifier is measured with texts as it will read them, and none can be made up",
            remedy="Give held-out texts with --evaluation FILE, or with their labels with --task FILE.",
        )
    for file in _files(recipe):
        if not Path(file).is_file():
            there = "is a folder, not a file" if Path(file).is_dir() else "is not there"
            raise DocumentError(f"{file} {there}", remedy="Give the path of a file.")


def _check_student(said: str, teacher: Checkpoint, load: Callable[[str], DeviceProfile]) -> None:
    if said.startswith(PRUNE):
        structure = parse_pruning(said.removeprefix(PRUNE), load)
        wanted(structure, body_of(teacher.architecture, teacher.config))
        if structure.params is not None:
            most_parameters(structure.params, teacher.parameters)
    elif not Path(said).exists() and ("=" in said or said.endswith("%")):
        raise UsageError(f"there is no student {said!r}", remedy=f"To cut the teacher, say prune:{said}.")


def _files(recipe: DistillRecipe) -> Iterator[str]:
    yield from (*recipe.data, *recipe.prompts, *recipe.tasks)
    beside = [recipe.validation, recipe.calibration, recipe.evaluation.file]
    if then := recipe.quantize:
        beside += [then.golden, then.evaluation.file, then.calibration.file if then.calibration else None]
    yield from filter(None, beside)
